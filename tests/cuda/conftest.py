"""For tests that hold the GPU's work against the CPU's."""

from __future__ import annotations

import pytest

from edge_fer.runtime.detectors import pyramid_input


@pytest.fixture
def averaged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU averages a picture's pixels in one step, as the kernel does, instead of in halves that are rounded."""
    monkeypatch.setattr(pyramid_input, "MOST_HALVINGS", 0)
