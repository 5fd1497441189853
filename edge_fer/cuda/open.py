"""Open a CUDA device through one of the adapters."""

from __future__ import annotations

from typing import Any

from edge_fer.core.errors import UsageError
from edge_fer.core.registry import resolve
from edge_fer.cuda.device import CudaDevice, DeviceInfo

DEFAULT_ADAPTER = "cuda-python"
ADAPTERS: dict[str, str] = {
    DEFAULT_ADAPTER: "edge_fer.cuda.cuda_python:open_device",
    "pycuda": "edge_fer.cuda.pycuda_adapter:open_device",
}


def open_device(index: int = 0, adapter: str = DEFAULT_ADAPTER) -> CudaDevice:
    """The primary context of a device, owned by the calling thread.

    Args:
        index: among the devices that this process may see (``CUDA_VISIBLE_DEVICES``), from 0.
        adapter: ``cuda-python``, or ``pycuda`` (no graphs).

    Raises:
        MissingDependencyError: the adapter's package is not installed.
        DeviceError: no driver, no such device, or no memory for a context; one sentence each.
        UsageError: unknown adapter.
    """
    if index < 0:
        raise UsageError(f"CUDA devices are counted from 0, not {index}.")
    factory: Any = resolve(ADAPTERS, adapter, what="CUDA adapter")
    device: CudaDevice = factory(index)
    return device


def describe_device(index: int = 0) -> DeviceInfo:
    """Who the device is, without making a context on it. Raises what :func:`open_device` raises."""
    from edge_fer.cuda.cuda_python import describe

    if index < 0:
        raise UsageError(f"CUDA devices are counted from 0, not {index}.")
    return describe(index)


__all__ = ["ADAPTERS", "DEFAULT_ADAPTER", "describe_device", "open_device"]
