"""How far TensorRT is while it builds: minutes on an old laptop, because it times every kernel that would fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def make_monitor(trt: Any, on_step: Callable[[str], None]) -> Any | None:
    """An ``IProgressMonitor`` that tells ``on_step`` about the outermost phase, at most once per percent.

    ``None`` where this version has no such thing (8.5 and 8.6).
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class exists only where TensorRT does
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, int] = {}
            self._told: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._phases[phase_name] = num_steps
                self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._phases:
                self._tell(phase_name, step + 1)
            return True  # go on building

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self._phases:
                self._tell(phase_name, self._phases[phase_name])
                del self._phases[phase_name]

        def _tell(self, phase_name: str, done: int) -> None:
            percent = 100 * done // max(self._phases[phase_name], 1)
            if self._told.get(phase_name) != percent:
                self._told[phase_name] = percent
                on_step(f"TensorRT: {phase_name.lower()}, {percent} %")

    return Monitor()
