"""Which backend a loop that lives on a GPU takes where none was asked for."""

from __future__ import annotations

from edge_fer.backends.registry import backend_module
from edge_fer.core.errors import DeviceError

LOOP_BACKENDS = ("tensorrt", "onnxruntime-cuda")
"""Backends whose engines take device addresses, the faster one first. ``onnxruntime-tensorrt`` is another one, for
those who ask for it: where the TensorRT that it needs is installed, so is ours."""


def loop_backend() -> str:
    """The first of these that is installed. One that is installed and does not work is an error when its engine is
    opened, and no reason to take the next.

    Raises:
        DeviceError: none is installed.
    """
    for name in LOOP_BACKENDS:
        if backend_module(name, "build").version() is not None:
            return name
    raise DeviceError(
        "A loop on the GPU needs TensorRT or onnxruntime-gpu, and neither is installed.",
        fix="`edge-fer doctor` prints the line that installs what serves this GPU.",
    )
