"""The window, on SDL's own driver without a screen: a picture that stands still is never taken for a live one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fer.runtime.frames import Frame
from edge_fer.runtime.results import FrameResult, StopRun
from edge_fer.runtime.sinks import window
from edge_fer.runtime.sinks.window import WindowSink

pygame = pytest.importorskip("pygame", reason="pygame-ce is not installed")


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[WindowSink]:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(window, "REDRAW_S", 0.0)
    opened = WindowSink()
    yield opened
    opened.close(complete=True)


def show(sink: WindowSink, value: int, size_hw: tuple[int, int] = (240, 320)) -> None:
    sink.write(FrameResult(Frame(np.full((*size_hw, 3), value, np.uint8)), (), ("happy",), 4.0, 30.0))


def screen() -> NDArray[np.uint8]:
    return np.asarray(pygame.surfarray.array3d(pygame.display.get_surface()), np.uint8)


def test_a_lost_camera_is_written_on_a_darkened_picture_until_it_is_back(sink: WindowSink) -> None:
    sink.idle()  # before the first picture there is no window, and nothing to say
    show(sink, 160)
    live = screen()
    sink.idle()
    np.testing.assert_array_equal(screen(), live)
    sink.tell("camera 0 is gone; next attempt in 2 s")
    sink.idle()
    lost = screen()
    assert np.median(lost) == np.median(live) // 2
    assert (lost[:, 100:140] > 200).any(), "nothing is written across the middle"
    sink.idle()
    assert np.median(screen()) == np.median(lost), "each redrawing is of the picture itself, not of a darker one"
    sink.tell("")
    show(sink, 160)
    sink.idle()
    np.testing.assert_array_equal(screen(), live)


def test_a_source_that_falls_silent_without_a_word_is_shown_as_old(
    sink: WindowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(sink, 160)
    live = screen()
    monkeypatch.setattr(window, "STALE_S", 0.0)
    sink.idle()
    assert np.median(screen()) == np.median(live) // 2


def test_a_picture_of_another_size_is_fitted_into_the_window(sink: WindowSink) -> None:
    show(sink, 90)
    show(sink, 90, (100, 200))
    shown = screen().mean(axis=2)
    assert shown.shape == (320, 240)
    assert (shown[:, 100:140] > 60).all()
    assert shown[:, [*range(38), *range(202, 240)]].max() == 0, "black above and below"


def test_q_and_the_closed_window_end_the_run(sink: WindowSink) -> None:
    show(sink, 90)
    for event in (pygame.event.Event(pygame.QUIT), pygame.event.Event(pygame.KEYDOWN, key=pygame.K_q)):
        pygame.event.post(event)
        with pytest.raises(StopRun):
            sink.idle()
