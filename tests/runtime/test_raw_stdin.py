"""Raw frames through a real pipe: every byte in its place, every mistake one sentence, nothing that hangs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from edge_fer.core.errors import DeviceMemoryError, SourceError, UsageError
from edge_fer.runtime.sources.raw_stdin import FORMATS, RawStdin, parse_raw

SIZE_HW = (48, 64)
WAIT_S = 120.0


def feed(data: bytes, layout: str, *, close: bool = True) -> tuple[RawStdin, Callable[[], None]]:
    """A source at the end of a pipe into which a thread writes; and what closes the pipe's ends."""
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb", closefd=close) as pipe:
            pipe.write(data)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()

    def clean() -> None:
        os.close(reader)
        thread.join(WAIT_S)
        if not close:
            os.close(writer)

    return RawStdin(parse_raw(layout), pool_size=2, descriptor=reader), clean


def read_all(source: RawStdin) -> list[np.ndarray]:
    images = []
    while (frame := source.read(WAIT_S)) is not None:
        images.append(frame.image_bgr.copy())
        assert frame.index == len(images) - 1
        assert frame.time_ms == pytest.approx(1000 * frame.index / source.info.fps)
        frame.release()
    source.close()
    return images


@pytest.fixture
def pictures() -> list[np.ndarray]:
    """Smooth colours, so that formats with less colour than BGR keep them."""
    ramp = np.linspace(30, 220, SIZE_HW[1], dtype=np.uint8)
    base = np.broadcast_to(ramp[None, :, None], (*SIZE_HW, 3))
    return [np.ascontiguousarray(np.roll(base, 5 * i, axis=1) // np.array([1, 2, 3], np.uint8)) for i in range(5)]


def test_frames_come_in_order_and_to_the_byte(pictures: list[np.ndarray]) -> None:
    source, clean = feed(b"".join(p.tobytes() for p in pictures), "64x48:bgr24@30")
    assert (source.info.width, source.info.height, source.info.fps, source.info.live) == (64, 48, 30, False)
    images = read_all(source)
    clean()
    assert source.dropped == 0
    assert np.array_equal(images, pictures)


@pytest.mark.parametrize(
    ("pixels", "conversion"),
    [
        ("rgb24", cv2.COLOR_BGR2RGB),
        ("bgra", cv2.COLOR_BGR2BGRA),
        ("rgba", cv2.COLOR_BGR2RGBA),
        ("yuv420p", cv2.COLOR_BGR2YUV_I420),
    ],
)
def test_other_pixel_formats_arrive_as_bgr(pictures: list[np.ndarray], pixels: str, conversion: int) -> None:
    source, clean = feed(b"".join(cv2.cvtColor(p, conversion).tobytes() for p in pictures), f"64x48:{pixels}")
    images = read_all(source)
    clean()
    assert len(images) == len(pictures)
    assert np.abs(np.array(images, int) - np.array(pictures, int))[:, :, 2:-2].mean() < 12


@pytest.mark.parametrize("pixels", ["gray", "nv12", "yuyv422"])
def test_grey_stays_grey_in_formats_without_or_with_shared_colour(pixels: str) -> None:
    """Neutral chroma is 128 in studio-range YUV; full-range grey is the value itself."""
    layout = parse_raw(f"64x48:{pixels}")
    data = np.full(layout.frame_bytes, 128, np.uint8)
    source, clean = feed(data.tobytes(), f"64x48:{pixels}")
    (image,) = read_all(source)
    clean()
    assert image.shape == (*SIZE_HW, 3)
    assert np.ptp(image) <= 2
    assert abs(int(image.mean()) - 128) <= 4


def test_every_format_knows_the_size_of_a_frame() -> None:
    for pixels in FORMATS:
        layout = parse_raw(f"64x48:{pixels}")
        assert layout.frame_bytes == int(np.prod(layout.shape))


def test_memory_that_runs_out_is_told_and_does_not_pass_for_the_end() -> None:
    class Full:
        """Holds two pictures."""

        held = 0

        def allocate(self, shape: tuple[int, ...]) -> np.ndarray:
            self.held += 1
            if self.held > 2:
                raise DeviceMemoryError("No pinned memory is left.")
            return np.empty(shape, np.uint8)

        def copy_in(self, target: np.ndarray, image_bgr: np.ndarray) -> None:
            np.copyto(target, image_bgr)

    reader, writer = os.pipe()
    os.write(writer, bytes(16 * 16 * 3 * 10))
    os.close(writer)
    source = RawStdin(parse_raw("16x16:bgr24"), pool_size=6, descriptor=reader, memory=Full())
    with pytest.raises(DeviceMemoryError, match="No pinned memory"):
        for _ in range(10):
            assert source.read(WAIT_S) is not None, "the input did not end"
    source.close()
    os.close(reader)


def test_a_short_last_frame_is_told_after_the_whole_ones(pictures: list[np.ndarray]) -> None:
    source, clean = feed(pictures[0].tobytes() + pictures[1].tobytes()[:-100], "64x48:bgr24")
    first = source.read(WAIT_S)
    assert first is not None
    first.release()
    with pytest.raises(SourceError, match="ended inside frame 1: 9116 of 9216 bytes of 64x48 bgr24, after 1 whole"):
        source.read(WAIT_S)
    source.close()
    clean()


@pytest.mark.parametrize(("data", "says"), [(b"", "before the first frame"), (b"abc", "inside frame 0: 3 of")])
def test_input_without_a_frame_is_one_sentence(data: bytes, says: str) -> None:
    source, clean = feed(data, "64x48:bgr24")
    with pytest.raises(SourceError, match=says) as caught:
        source.read(WAIT_S)
    assert caught.value.fix
    source.close()
    clean()


def test_a_writer_that_is_silent_never_keeps_the_run_from_ending() -> None:
    source, clean = feed(b"half a frame", "64x48:bgr24", close=False)
    threading.Timer(0.3, source.interrupt).start()
    assert source.read(60.0) is None  # and no complaint about the half frame: the user has ended the run
    source.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "stdin"]
    clean()


def test_a_writer_that_is_silent_too_long_is_told() -> None:
    source, clean = feed(b"", "64x48:bgr24", close=False)
    with pytest.raises(SourceError, match="No frame came"):
        source.read(0.3)
    source.close()
    clean()


def test_a_camera_behind_the_pipe_never_waits_and_drops_are_counted() -> None:
    """Forty frames are written while nobody reads; the next read gets the newest one."""
    numbered = b"".join(np.full((*SIZE_HW, 3), i, np.uint8).tobytes() for i in range(40))
    source, clean = feed(numbered, "64x48:bgr24@30,live")
    assert source.info.live
    first = source.read(WAIT_S)
    assert first is not None
    seen = [first]
    while (frame := source.read(WAIT_S)) is not None:
        seen.append(frame)  # kept: the pool runs empty, which must not stop the reading either
    assert len(seen) + source.dropped == 40
    assert [int(frame.image_bgr[0, 0, 0]) for frame in seen] == [frame.index for frame in seen]
    source.close()
    clean()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "640x480",
        "640:bgr24",
        "640x480:bgr48",
        "0x480:bgr24",
        "99999x99999:gray",
        "63x48:nv12",
        "64x47:yuv420p",
        "63x48:yuyv422",
        "640x480:bgr24@0",
        "640x480:bgr24@",
        "640x480:bgr24@9999",
        "640x480:bgr24,fast",
        "axb:gray",
    ],
)
def test_a_layout_that_cannot_be_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_raw(text)
    assert "--raw" in str(caught.value)


def test_a_terminal_is_not_a_source() -> None:
    pytest.importorskip("pty", reason="terminals are POSIX")
    import pty

    leader, follower = pty.openpty()
    with pytest.raises(SourceError, match="terminal"):
        RawStdin(parse_raw("64x48:gray"), pool_size=1, descriptor=follower)
    os.close(leader)
    os.close(follower)


def test_a_closed_descriptor_is_one_sentence() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(SourceError, match="closed"):
        RawStdin(parse_raw("64x48:gray"), pool_size=1, descriptor=reader)
