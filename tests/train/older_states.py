"""States as other versions of the project left them."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def leave_recipe(folder: Path, *, without: tuple[str, ...] = (), **more: object) -> None:
    """Rewrite the recipe in a run's state: without keys that came later, or with keys that have gone since."""
    state = torch.load(folder / "state.pt", weights_only=True)
    recipe = {key: value for key, value in json.loads(state["recipe"]).items() if key not in without}
    torch.save({**state, "recipe": json.dumps(recipe | more)}, folder / "state.pt")
