"""What a failed CUDA call tells the user: one sentence, with the step that mends it where there is one."""

from __future__ import annotations

from edge_fer.core.errors import DeviceError, DeviceLostError, DeviceMemoryError, MissingDependencyError

MAKE_ROOM = "Close what else uses the GPU (nvidia-smi lists it), or let `edge-fer run` take --allow-smaller-batch."
"""What helps when a GPU's memory is full."""
START_AGAIN = "Start edge-fer again; if it happens again, look at `dmesg` for Xid messages of the driver."
"""What helps when a GPU was lost."""
_MENDING = {
    "CUDA_ERROR_OUT_OF_MEMORY": ("the GPU's memory is full", MAKE_ROOM),
    "CUDA_ERROR_DEVICE_UNAVAILABLE": (
        "the GPU is busy, or closed to this process",
        "`nvidia-smi -q -d COMPUTE` tells its compute mode: in exclusive mode another process may have it. "
        "If it went away while edge-fer ran, look at `dmesg` for Xid messages of the driver.",
    ),
    "CUDA_ERROR_NO_DEVICE": (
        "the driver finds no CUDA device that this process may use",
        "Look at `nvidia-smi`, and at the variable CUDA_VISIBLE_DEVICES.",
    ),
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": (
        "the loaded driver and its library are of different versions",
        "Restart the machine after a driver update.",
    ),
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": (
        "the driver is older than the device code",
        "Update the NVIDIA driver; `edge-fer doctor` says which one.",
    ),
    "CUDA_ERROR_NO_BINARY_FOR_GPU": (
        "the device code is not for this GPU",
        "The code that ships with edge-fer needs compute capability 6.1 or newer.",
    ),
}
_LOST = {
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_CONTAINED",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_UNKNOWN",
}
"""After these the context is broken: every later call fails too."""

_OF_THE_HOST = ("cuMemHostAlloc",)
"""Calls that take the machine's memory, which fewer faces at a time do not save."""


def call_failed(call: str, name: str, text: str) -> DeviceError:
    """The error for a driver call.

    Args:
        call: ``cuMemAlloc``.
        name: ``CUDA_ERROR_OUT_OF_MEMORY``.
        text: the driver's own words.
    """
    if call in _OF_THE_HOST and name == "CUDA_ERROR_OUT_OF_MEMORY":
        return DeviceError(
            f"{call} failed: the machine has no memory left that can be pinned for the GPU ({name}).",
            fix="Close other programs, or take a smaller picture.",
        )
    if name in _MENDING:
        reason, fix = _MENDING[name]
        kind = DeviceMemoryError if name == "CUDA_ERROR_OUT_OF_MEMORY" else DeviceError
        return kind(f"{call} failed: {reason} ({name}).", fix=fix)
    if name in _LOST:
        return DeviceLostError(f"{call} failed: the GPU was lost ({name}: {text}).", fix=START_AGAIN)
    return DeviceError(f"{call} failed: {text} ({name}).")


def no_driver(reason: str) -> DeviceError:
    return DeviceError(
        f"There is no NVIDIA driver on this machine ({reason}).",
        fix="Install it, or run on the CPU, without --device cuda and with --backend auto.",
    )


def old_driver() -> DeviceError:
    return DeviceError(
        "The NVIDIA driver of this machine is older than CUDA 12.",
        fix="Update it to R525 or newer (R580 is the last for Pascal cards), or run on the CPU, without --device cuda.",
    )


class NoSuchDevice(DeviceError):  # noqa: N818 (told apart by those who look for a device under another number)
    """There is a driver, and no device of this number."""


def no_such_device(index: int, count: int | None) -> NoSuchDevice:
    """``count``: how many there are, or ``None`` where that is not known."""
    found = "fewer" if count is None else "none" if count == 0 else f"{count}, counted from 0"
    return NoSuchDevice(
        f"There is no CUDA device {index}: the driver shows {found}.",
        fix="`nvidia-smi` lists them; CUDA_VISIBLE_DEVICES chooses which of them a process may use.",
    )


def no_package(package: str, extra: str) -> MissingDependencyError:
    return MissingDependencyError(package, extra=extra, purpose="running on a GPU")


__all__ = [
    "MAKE_ROOM",
    "START_AGAIN",
    "NoSuchDevice",
    "call_failed",
    "no_driver",
    "no_package",
    "no_such_device",
    "old_driver",
]
