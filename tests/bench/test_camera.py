"""Camera to label with the real loop: every frame of the camera is labelled or counted as dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_fer.bench.camera import measure_camera
from edge_fer.bench.plan import CameraPlan
from edge_fer.core.errors import EdgeFerError


@pytest.mark.slow
def test_every_frame_is_labelled_or_counted(capfd: pytest.CaptureFixture[str]) -> None:
    result = measure_camera(CameraPlan(seconds=4.0, fps=20.0, backend="onnxruntime", precision="int8"))
    assert result.frames + result.dropped == 80
    assert result.frames > 0
    assert "onnxruntime int8, 1 thread" in result.engine
    assert {"detect", "infer"} <= set(result.stages)
    for spread in (result.age, *result.stages.values()):
        assert 0 <= spread.p50 <= spread.p90 <= spread.p99 <= spread.maximum
    assert sum(window.frames for window in result.windows) <= result.frames
    assert [window.start_s for window in result.windows] == sorted(window.start_s for window in result.windows)


def test_what_cannot_be_opened_is_one_sentence() -> None:
    with pytest.raises(EdgeFerError, match="no-such-model"):
        measure_camera(CameraPlan(seconds=0.1, engine="no-such-model"))


def test_a_clip_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no clip")
    with pytest.raises(EdgeFerError, match=r"clip\.mp4"):
        measure_camera(
            CameraPlan(seconds=0.1, clip=str(tmp_path / "clip.mp4"), backend="onnxruntime", precision="int8")
        )
