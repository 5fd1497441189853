"""Quantise one ONNX file with NNCF for OpenVINO, as OpenVINO's own documentation does; run by quantisation.py.

    python benchmarks/nncf_native.py MODEL.onnx FACES.npy OUT.xml

FACES holds float32 (n, C, H, W). Everything is NNCF's default: symmetric activations and weights, fast bias correction.
NNCF reports to Google Analytics unless it believes that it runs in its vendor's CI; it is told so before it is
imported, and the package that sends is hidden as well.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from edge_fer.backends.openvino.build import TELEMETRY, import_openvino


def quantise(model: Path, faces: Path, out: Path) -> str:
    """Write the quantised network as OpenVINO IR (``out`` and its ``.bin``); returns NNCF's version."""
    os.environ["NNCF_CI"] = "1"
    openvino = import_openvino()
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    import nncf

    network = openvino.Core().read_model(str(model))
    inputs = np.load(faces)
    samples = nncf.Dataset([inputs[i : i + 1] for i in range(len(inputs))])
    quantised = nncf.quantize(network, samples, subset_size=len(inputs))
    openvino.save_model(quantised, str(out), compress_to_fp16=False)
    return str(nncf.__version__)


if __name__ == "__main__":
    # Its progress bars are no answer: standard output carries the version alone.
    answer = os.dup(1)
    os.dup2(2, 1)
    found = quantise(*(Path(argument) for argument in sys.argv[1:4]))
    os.write(answer, f"{found}\n".encode())
