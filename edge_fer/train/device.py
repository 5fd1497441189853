"""What ``--device`` may say to a training."""

from __future__ import annotations

import torch

from edge_fer.core.errors import DeviceError, UsageError


def check_device(text: str) -> None:
    """See that torch knows a device and that this machine has it, before any data is read.

    Args:
        text: as torch writes it: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        UsageError: torch has no such kind of device.
        DeviceError: it is not there.
    """
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UsageError(f"--device {text!r} is no device of torch.", fix="--device cpu, cuda or cuda:1") from None
    try:
        torch.empty(1, device=device)
    except Exception as error:  # every device has its own way of not being there
        why = str(error).strip().splitlines()[0].partition(". ")[0].rstrip(".")
        raise DeviceError(
            f"torch cannot use the device {text} here: {why}.", fix="Use --device cpu; `edge-fer doctor` says more."
        ) from None
