"""The ring of frames: nothing is allocated or copied once it turns, wherever its pictures lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_fer.cli.run import DEMO
from edge_fer.runtime.frames import Frame, FramePool, FrameSource
from edge_fer.runtime.sources.choose import open_source
from edge_fer.runtime.sources.synthetic import SyntheticCamera


class Shelf:
    """Picture memory that remembers what it gave and copied."""

    def __init__(self) -> None:
        self.given: list[NDArray[np.uint8]] = []
        self.copied = 0

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        self.given.append(np.empty(shape, np.uint8))
        return self.given[-1]

    def copy_in(self, target: NDArray[np.uint8], image_bgr: NDArray[np.uint8]) -> None:
        self.copied += 1
        np.copyto(target, image_bgr)


def frame_of(shelf: Shelf | None) -> Frame:
    frame = FramePool(1, shelf).take(0)
    assert frame is not None
    return frame


def read_all(source: FrameSource, count: int) -> None:
    for _ in range(count):
        frame = source.read(10)
        assert frame is not None
        assert frame.image_bgr.any(), "nothing was decoded into it"
        frame.release()
    source.close()


def test_a_file_is_decoded_straight_into_the_memory_that_is_given() -> None:
    shelf = Shelf()
    source = open_source(str(DEMO), pool_size=2, memory=shelf)
    frames = [source.read(10) for _ in range(2)]
    for frame in frames:
        assert frame is not None
        assert any(frame.image_bgr is picture for picture in shelf.given)
        frame.release()
    read_all(source, 20)
    assert shelf.copied == 0
    assert 2 <= len(shelf.given) <= 5, "a ring, not a picture per frame"


def test_a_synthetic_camera_writes_where_it_is_told() -> None:
    shelf = Shelf()
    read_all(SyntheticCamera(Path(DEMO), pool_size=2, fps=200.0, memory=shelf), 3)
    assert 1 <= len(shelf.given) <= 4


def test_a_picture_of_another_size_is_copied_once_and_decoded_in_place_from_then_on() -> None:
    shelf = Shelf()
    frame = frame_of(shelf)
    assert frame.target(4, 6).shape == (4, 6, 3)
    turned = np.full((6, 4, 3), 7, np.uint8)
    frame.hold(turned)
    assert frame.image_bgr is shelf.given[1]
    assert (frame.image_bgr == 7).all()
    assert frame.target(4, 6) is shelf.given[1], "the announced size was wrong, the last one counts"
    frame.hold(frame.image_bgr)
    assert (shelf.copied, len(shelf.given)) == (1, 2)


def test_without_memory_of_its_own_a_frame_adopts_what_a_decoder_returns() -> None:
    frame = frame_of(None)
    picture = np.zeros((4, 6, 3), np.uint8)
    frame.hold(picture)
    assert frame.image_bgr is picture
    assert frame.room((4, 6, 3)) is picture
    assert frame.room((2, 2, 3)).shape == (2, 2, 3)


def test_a_lone_frame_without_a_pool_works_too() -> None:
    frame = Frame(np.empty((0, 0, 3), np.uint8))
    assert frame.room((2, 3, 3)).shape == (2, 3, 3)
    frame.hold(np.ones((5, 5, 3), np.uint8))
    assert frame.image_bgr.shape == (5, 5, 3)
