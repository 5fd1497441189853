"""What a run that was interrupted needs to go on, and how it is known to be the same run."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from edge_fer.core.errors import CheckpointError
from edge_fer.core.files import atomic_file
from edge_fer.core.spec import Frozen

STATE = "state.pt"
FIX = "Choose another --out, or start again with --fresh."


def arrays_sha256(*arrays: Tensor | NDArray[Any]) -> str:
    """SHA-256 of types, shapes and contents, in this order."""
    digest = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(array)
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the state in ``folder`` in one step."""
    with atomic_file(folder / STATE) as temporary:
        torch.save(state, temporary)


def read_state(folder: Path, recipe: Frozen, data_sha256: str) -> dict[str, Any] | None:
    """The state that an earlier run left in ``folder``, or ``None`` when there is none.

    Args:
        recipe: of the run now.
        data_sha256: of the data that is trained on now. What a state knows of single pictures, and which of them were
            held out, it knows by their numbers.

    Raises:
        CheckpointError: it is damaged, or was left by a run with other data or of another recipe.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"The state {path} cannot be read: {error}.", fix=FIX) from None
    if state.get("data_sha256") != data_sha256:
        raise CheckpointError(f"The unfinished run in {folder} was begun with other data.", fix=FIX)
    if not _same(state["recipe"], recipe):
        raise CheckpointError(f"The unfinished run in {folder} belongs to another recipe.", fix=FIX)
    return state


def _same(stored: str, recipe: Frozen) -> bool:
    """Compared as recipes, not as texts: a key that has come since then has its default in an older state."""
    try:
        return type(recipe).model_validate_json(stored) == recipe
    except ValidationError:  # a key that has gone since then
        return False


def restore(
    state: Mapping[str, Any], model: nn.Module, average: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Put back what every run keeps: the network, its moving average and the optimisers."""
    model.load_state_dict(state["model"])
    average.load_state_dict(state["ema"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
