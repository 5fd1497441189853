"""The loop on a device that does everything late: the same scores as on the CPU, and every missing wait shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from simulated import MX250, SimulatedDevice, SimulatedEvent
from simulated_gpu import SIZE_HW, WAYS, Gpu, box, noise

from edge_fer.backends.registry import open_engine
from edge_fer.cli.run import DEMO
from edge_fer.core.bundle import Bundle
from edge_fer.core.errors import DeviceError, DeviceLostError
from edge_fer.core.faces import Faces
from edge_fer.cuda.device import Stream
from edge_fer.cuda.face_kernels import CudaFaceKernels
from edge_fer.cuda.pinned_pictures import PinnedPictures
from edge_fer.runtime.cuda_face_stage import STEADY, CudaFaceStage, CudaPlace, rows_with_faces
from edge_fer.runtime.detectors.haar import HaarDetector
from edge_fer.runtime.detectors.whole_frame import WholeFrame
from edge_fer.runtime.face_stage import HostFaceStage
from edge_fer.runtime.frames import Frame, FramePool, SourceInfo
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.preprocess import square_around
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sources.choose import open_source
from edge_fer.runtime.transfer import TRIALS, Transfer


@pytest.fixture(scope="module")
def expected(shipped: Bundle) -> Iterator[Callable[..., NDArray[np.float32]]]:
    """The scores by way of the CPU."""
    with open_engine(shipped, backend="onnxruntime", precision="int8") as engine:
        stage = HostFaceStage(engine)

        def scores(
            picture: NDArray[np.uint8], boxes: list[NDArray[np.float32]], *, whole: bool = False
        ) -> NDArray[np.float32]:
            stage.prepare(stage.places[0], picture, boxes, whole=whole)
            return stage.scores(stage.places[0], len(boxes)).copy()

        yield scores


def check(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, wanted, atol=1e-6)


# One frame after the other, in one thread.


@pytest.mark.parametrize("transfer", WAYS)
def test_the_scores_are_those_of_the_cpu(shipped: Bundle, expected: Callable, transfer: Transfer) -> None:
    gpu = Gpu(shipped, transfer=transfer)
    for index in range(4 * STEADY):
        place = gpu.stage.places[index % 2]
        boxes = [box(index), box(index + 100), box(index + 200)]
        gpu.stage.prepare(place, gpu.picture(index), boxes, whole=False)
        check(gpu.stage.scores(place, 3), expected(noise(index), boxes))
    assert gpu.stage.replays == 2 * STEADY


def test_two_frames_in_flight_do_not_mix(shipped: Bundle, expected: Callable) -> None:
    gpu = Gpu(shipped)
    one, two = gpu.stage.places
    for index in range(0, 6 * STEADY, 2):
        gpu.stage.prepare(one, gpu.picture(index), [box(index)], whole=False)
        gpu.stage.prepare(two, gpu.picture(index + 1), [box(index + 1)], whole=False)
        check(gpu.stage.scores(one, 1), expected(noise(index), [box(index)]))
        check(gpu.stage.scores(two, 1), expected(noise(index + 1), [box(index + 1)]))


def test_every_number_of_faces_has_a_graph_of_its_own(shipped: Bundle, expected: Callable) -> None:
    gpu = Gpu(shipped)
    place = gpu.stage.places[0]
    for index, count in enumerate([1] * 8 + [2] * 8 + [1] * 8 + [8, 1, 8, 1]):
        boxes = [box(index + 50 * face) for face in range(count)]
        gpu.stage.prepare(place, gpu.picture(index), boxes, whole=False)
        check(gpu.stage.scores(place, count), expected(noise(index), boxes))
    assert gpu.stage.replays == (8 - STEADY) + (8 - STEADY) + 8 + 2, "a number that comes back finds its graph"


def test_graphs_of_an_engine_with_one_shape_at_a_time_are_thrown_away(shipped: Bundle, expected: Callable) -> None:
    gpu = Gpu(shipped, keeps_captured=False)
    place = gpu.stage.places[0]
    for index, count in enumerate([1] * 8 + [2] * 8 + [1] * 8 + [8, 1, 8, 1]):
        boxes = [box(index + 50 * face) for face in range(count)]
        gpu.stage.prepare(place, gpu.picture(index), boxes, whole=False)
        check(gpu.stage.scores(place, count), expected(noise(index), boxes))
    assert gpu.stage.replays == 3 * (8 - STEADY)


def test_frames_may_change_their_size_under_a_captured_graph(shipped: Bundle, expected: Callable) -> None:
    gpu = Gpu(shipped, transfer="copy")
    place = gpu.stage.places[0]
    for index, size_hw in enumerate([SIZE_HW] * 6 + [(200, 300)] * 3 + [(64, 64)] * 3):
        gpu.stage.prepare(place, gpu.picture(index, size_hw), [box(index, size_hw)], whole=False)
        check(gpu.stage.scores(place, 1), expected(noise(index, size_hw), [box(index, size_hw)]))
    assert gpu.stage.replays == 12 - STEADY


def test_a_frame_that_is_the_face_and_one_from_elsewhere(shipped: Bundle, expected: Callable) -> None:
    gpu = Gpu(shipped, transfer="copy")
    place = gpu.stage.places[0]
    gpu.stage.prepare(place, noise(1), [box(1)], whole=True)
    check(gpu.stage.scores(place, 1), expected(noise(1), [box(1)], whole=True))
    assert (gpu.copies.on_host, gpu.copies.to_device, gpu.copies.per_frame) == (1, 1, 2.0)
    assert gpu.copies.on_host_bytes == gpu.copies.to_device_bytes == noise(1).nbytes


def test_only_rows_with_faces_are_copied_and_all_of_them(shipped: Bundle) -> None:
    gpu = Gpu(shipped, transfer="copy")
    margin = shipped.manifest.classifier.preprocess.margin
    place = gpu.stage.places[0]
    low = np.array([10, 70, 30, 90], np.float32)
    gpu.stage.prepare(place, gpu.picture(0), [low], whole=False)
    gpu.stage.scores(place, 1)
    _, top, side = square_around(low, margin)
    assert gpu.device.to_device == [(min(top + side, SIZE_HW[0]) - top) * SIZE_HW[1] * 3]
    above, below = np.array([0, -90, 20, -70], np.float32), np.array([0, 300, 20, 320], np.float32)
    assert rows_with_faces([above], 0.0, 96) == (0, 1)
    assert rows_with_faces([below], 0.0, 96) == (95, 96)
    assert rows_with_faces([above, below], 0.0, 96) == (0, 96)


def test_abandoned_work_is_over_before_its_place_is_used_again(shipped: Bundle, expected: Callable) -> None:
    gpu = Gpu(shipped)
    place = gpu.stage.places[0]
    gpu.stage.prepare(place, gpu.picture(1), [box(1), box(2)], whole=False)
    gpu.stage.prepare(place, gpu.picture(3), [box(3)], whole=False)
    check(gpu.stage.scores(place, 1), expected(noise(3), [box(3)]))


def test_the_way_of_the_pixels_is_measured_on_a_discrete_gpu_and_known_on_an_integrated_one(shipped: Bundle) -> None:
    gpu = Gpu(shipped)
    place = gpu.stage.places[0]
    for index in range(2 * TRIALS + 2):
        assert gpu.stage.transfer.chosen is None
        gpu.stage.prepare(place, gpu.picture(index), [box(index)], whole=False)
        gpu.stage.scores(place, 1)
    # The simulated kernel reads through the bus for nothing, so that copying must lose.
    assert gpu.stage.transfer.chosen == "in place"
    assert gpu.copies.to_device == gpu.copies.in_place == TRIALS + 1
    shared = Gpu(shipped, info=replace(MX250, integrated=True))
    assert shared.stage.transfer.chosen == "in place"
    shared.stage.prepare(shared.stage.places[0], shared.picture(0), [box(0)], whole=False)
    shared.stage.scores(shared.stage.places[0], 1)
    assert shared.device.to_device == shared.device.to_host == []
    assert (shared.copies.per_frame, shared.copies.in_place) == (0.0, 1)


# Mistakes that a real device shows once a day.


def frames_agree(gpu: Gpu, expected: Callable) -> None:
    one, two = gpu.stage.places
    for index in range(0, 4 * STEADY, 2):
        pictures = gpu.picture(index), gpu.picture(index + 1)
        gpu.stage.prepare(one, pictures[0], [box(index)], whole=False)
        gpu.stage.prepare(two, pictures[1], [box(index + 1)], whole=False)
        for place, seed in ((one, index), (two, index + 1)):
            check(gpu.stage.scores(place, 1), expected(noise(seed), [box(seed)]))


def without_wait(gpu: Gpu, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedEvent, "synchronize", lambda _self: None)
    gpu.stage.transfer.chosen = "copy"  # a measurement would itself wait


def with_one_place(gpu: Gpu, _patch: pytest.MonkeyPatch) -> None:
    gpu.stage.places = (gpu.stage.places[0],) * 2


def with_a_frame_that_is_written_too_soon(gpu: Gpu, patch: pytest.MonkeyPatch) -> None:
    prepare = gpu.stage.prepare

    def hasty(place: CudaPlace, image: NDArray[np.uint8], *rest: object, **options: bool) -> None:
        prepare(place, image, *rest, **options)  # type: ignore[arg-type]
        image[:] = 0

    patch.setattr(gpu.stage, "prepare", hasty)


def with_a_copy_on_a_stream_that_nobody_waits_for(gpu: Gpu, patch: pytest.MonkeyPatch) -> None:
    gpu.stage.transfer.chosen = "copy"
    copy, other = gpu.device.copy_to_device, gpu.device.stream()
    patch.setattr(gpu.device, "copy_to_device", lambda t, s, n, _stream, offset: copy(t, s, n, other, offset=offset))


def with_too_few_rows(gpu: Gpu, patch: pytest.MonkeyPatch) -> None:
    gpu.stage.transfer.chosen = "copy"

    def fewer(boxes: object, margin: float, height: int, angles_deg: object) -> tuple[int, int]:
        top, bottom = rows_with_faces(boxes, margin, height, angles_deg)  # type: ignore[arg-type]
        return top, max(top + 1, bottom - 4)

    patch.setattr("edge_fer.runtime.cuda_face_stage.rows_with_faces", fewer)


@pytest.mark.parametrize(
    "mistake",
    [
        without_wait,
        with_one_place,
        with_a_frame_that_is_written_too_soon,
        with_a_copy_on_a_stream_that_nobody_waits_for,
        with_too_few_rows,
    ],
)
def test_a_mistake_in_the_order_gives_wrong_scores_here(
    shipped: Bundle, expected: Callable, mistake: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames_agree(Gpu(shipped), expected)
    gpu = Gpu(shipped)
    mistake(gpu, monkeypatch)
    with pytest.raises(AssertionError):
        frames_agree(gpu, expected)


def test_boxes_that_are_frozen_into_the_graph_give_wrong_scores_here(shipped: Bundle, expected: Callable) -> None:
    class Frozen(CudaFaceKernels):
        def preprocess(self, input_pointer: int, n: int, stream: Stream) -> None:
            kept = self._faces.copy()

            def describe_again() -> None:
                self._faces[:] = kept

            assert isinstance(self._device, SimulatedDevice)
            self._device.enqueue(stream.handle, describe_again)
            super().preprocess(input_pointer, n, stream)

    with pytest.raises(AssertionError):
        frames_agree(Gpu(shipped, kernels=Frozen), expected)
    frames_agree(Gpu(shipped, kernels=Frozen, graphs=False), expected)


# The whole loop.


class Ring:
    """Random pictures in a ring that is as small as a pipeline with one sink allows."""

    def __init__(self, count: int, memory: PinnedPictures | None, frames_held: int) -> None:
        self._pool, self._count, self._next = FramePool(frames_held + 1, memory), count, 0
        self.info = SourceInfo("ring", SIZE_HW[1], SIZE_HW[0], 30.0, live=False, frames=count, continuous=False)
        self.dropped, self.waiting = 0, False

    def read(self, timeout_s: float) -> Frame | None:
        if self._next == self._count:
            return None
        frame = self._pool.take(None)  # for ever, if somebody keeps frames: how long a busy machine takes is no finding
        assert frame is not None
        frame.room((*SIZE_HW, 3))[:] = noise(self._next)
        frame.index, self._next = self._next, self._next + 1
        return frame

    def interrupt(self) -> None:
        self._count = self._next

    def close(self) -> None:
        pass


class BoxesOf:
    """Finds the boxes that belong to the picture of this index."""

    name, whole_frame = "boxes", False

    def __init__(self, most: int) -> None:
        self._index, self._most = 0, most

    def detect(self, image_bgr: NDArray[np.uint8]) -> Faces:
        boxes = [box(self._index + 31 * face) for face in range(1 + self._index // 12 % self._most)]
        self._index += 1
        return Faces(np.stack(boxes), np.ones(len(boxes), np.float32))


class Keep:
    name, lossless = "keep", True

    def __init__(self) -> None:
        self.scores: list[list[NDArray[np.float32]]] = []

    def write(self, result: FrameResult) -> None:
        self.scores.append([face.scores for face in result.faces])

    def close(self, *, complete: bool) -> None:
        pass


def through_the_loop(source: object, detector: object, engine: object, stage: object) -> list[list[NDArray]]:
    keep = Keep()
    Pipeline(source, detector, engine, [keep], smooth=0.0, detect_every=1, stage=stage).run()  # type: ignore[arg-type]
    return keep.scores


@pytest.mark.parametrize("max_batch", [8, 2])
def test_the_loop_in_threads_gives_the_cpu_s_scores_frame_by_frame(shipped: Bundle, max_batch: int) -> None:
    """With ``max_batch`` 2 frames have more faces than a place holds."""
    count, held = 60, Pipeline.frames_held(1)
    with open_engine(shipped, backend="onnxruntime", precision="int8") as engine:
        wanted = through_the_loop(Ring(count, None, held), BoxesOf(4), engine, None)
    gpu = Gpu(shipped, max_batch=max_batch)
    found = through_the_loop(Ring(count, gpu.pictures, held), BoxesOf(4), gpu.engine, gpu.stage)
    assert len(found) == len(wanted) == count
    for here, there in zip(found, wanted, strict=True):
        check(np.stack(here), np.stack(there))
    assert gpu.copies.on_host == 0
    assert gpu.copies.to_device == len(gpu.device.to_device)
    assert gpu.copies.to_device_bytes == sum(gpu.device.to_device)
    assert gpu.copies.to_device + gpu.copies.in_place == gpu.copies.frames >= count
    assert gpu.device.to_host == [], "scores are written where the host reads them"


@pytest.mark.parametrize("integrated", [False, True])
def test_a_real_clip_with_a_real_detector_is_decoded_where_the_gpu_reads(shipped: Bundle, integrated: bool) -> None:
    gpu = Gpu(shipped, info=replace(MX250, integrated=integrated))
    keep = Keep()
    source = open_source(str(DEMO), pool_size=Pipeline.frames_held(1), memory=gpu.pictures)
    with gpu.stage as stage:
        pipeline = Pipeline(source, HaarDetector(min_face_px=80), gpu.engine, [keep], stage=stage)
        stats = pipeline.run(max_frames=10)
    source.close()
    assert stats.frames_with_faces == 10
    assert {pipeline.tracker.all_tracks()[0].frames} == {10}
    assert all(scores[0].argmax() == shipped.manifest.classifier.labels.index("happy") for scores in keep.scores)
    assert stats.copies is gpu.copies
    assert gpu.copies.on_host == 0, "the decoder wrote somewhere else"
    assert gpu.copies.per_frame == (0.0 if integrated else 0.5)  # measured by turns in so short a run
    assert any("Copies of a frame" in note for note in stage.notes())


def test_pictures_of_a_folder_cost_one_more_copy(shipped: Bundle, tmp_path: Path) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), noise(index, (60 + 10 * index, 80)))
    gpu = Gpu(shipped, transfer="copy")
    source = open_source(str(tmp_path), pool_size=4, memory=gpu.pictures)
    keep = Keep()
    Pipeline(source, WholeFrame(), gpu.engine, [keep], stage=gpu.stage).run()
    assert len(keep.scores) == 3
    assert (gpu.copies.on_host, gpu.copies.to_device, gpu.copies.per_frame) == (3, 3, 2.0)


def test_a_lost_gpu_ends_the_run_with_one_sentence(shipped: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(shipped)
    calls = 0
    prepare = gpu.stage.prepare

    def lose(*arguments: object, **options: bool) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            gpu.device.fail_next("cuMemcpyHtoDAsync", "CUDA_ERROR_LAUNCH_FAILED")
        prepare(*arguments, **options)  # type: ignore[arg-type]

    gpu.stage.transfer.chosen = "copy"
    monkeypatch.setattr(gpu.stage, "prepare", lose)
    source = Ring(9, gpu.pictures, Pipeline.frames_held(1))
    with pytest.raises(
        DeviceLostError, match=r"^cuMemcpyHtoDAsync failed: the GPU was lost .*\. Start edge-fer again"
    ) as told:
        through_the_loop(source, BoxesOf(1), gpu.engine, gpu.stage)
    assert "\n" not in str(told.value)
    assert calls == 3, "what is lost for this process is not tried again"


def test_a_full_gpu_is_one_sentence(shipped: Bundle) -> None:
    gpu = Gpu(shipped, transfer="copy")
    gpu.device.fail_next("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(DeviceError, match="memory is full"):
        gpu.stage.prepare(gpu.stage.places[0], gpu.picture(0), [box(0)], whole=False)


def test_an_engine_that_takes_no_addresses_is_refused(shipped: Bundle) -> None:
    gpu = Gpu(shipped)
    with (
        open_engine(shipped, backend="onnxruntime", precision="int8") as engine,
        pytest.raises(DeviceError, match="no addresses"),
    ):
        CudaFaceStage(gpu.lane, engine, gpu.pictures, gpu.copies)  # type: ignore[arg-type]
