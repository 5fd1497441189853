"""Frames as cameras deliver them, and faces that are levelled by their eyes, on a device that does everything late."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from simulated_gpu import SIZE_HW, WAYS, Gpu, box, noise

from edge_fer.backends.registry import open_engine
from edge_fer.core.bundle import Bundle
from edge_fer.core.engine import INPUT, OUTPUT, Engine
from edge_fer.core.faces import Faces
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.cuda.pinned_pictures import PinnedPictures
from edge_fer.cuda.raw_picture import Pixels, RawPicture
from edge_fer.runtime.cuda_face_stage import STEADY, rows_with_faces
from edge_fer.runtime.face_stage import FaceStage
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.postprocess import softmax_into
from edge_fer.runtime.preprocess import FaceCropper
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sources.raw_stdin import RawStdin, parse_raw
from edge_fer.runtime.transfer import Transfer

Scores = Callable[..., NDArray[np.float32]]
DECODED = {"nv12": cv2.COLOR_YUV2BGR_NV12, "yuyv422": cv2.COLOR_YUV2BGR_YUYV}


def levelling(model: ModelSpec) -> ModelSpec:
    return model.model_copy(update={"preprocess": model.preprocess.model_copy(update={"alignment": "eyes"})})


@pytest.fixture(scope="module")
def expected(shipped: Bundle) -> Iterator[Scores]:
    """The scores by way of the CPU."""
    model = levelling(shipped.manifest.classifier)
    cropper = FaceCropper(model.preprocess)
    with open_engine(shipped, backend="onnxruntime", precision="int8") as engine:
        slot, found = engine.slots[0], np.zeros((8, len(model.labels)), np.float32)

        def scores(picture: NDArray[np.uint8], boxes: list, angles_deg: list[float]) -> NDArray[np.float32]:
            for row, box_xyxy, angle_deg in zip(slot.inputs[INPUT], boxes, angles_deg, strict=False):
                cropper.crop_into(row, picture, box_xyxy, angle_deg)
            engine.submit(slot, len(boxes))
            engine.wait(slot)
            softmax_into(found[: len(boxes)], slot.outputs[OUTPUT][: len(boxes)])
            return found[: len(boxes)].copy()

        yield scores


def camera(gpu: Gpu, seed: int, pixels: Pixels) -> tuple[RawPicture, NDArray[np.uint8]]:
    """A picture in pinned memory as a camera delivers it, and what OpenCV makes of it."""
    height, width = SIZE_HW
    shape = (height * 3 // 2, width) if pixels == "nv12" else (height, width, 2)
    memory = gpu.pictures.allocate(shape)
    planes = cv2.cvtColor(noise(seed), cv2.COLOR_BGR2YUV)
    if pixels == "nv12":
        memory[:height] = planes[..., 0]
        memory[height:] = planes[::2, ::2, 1:].reshape(height // 2, width)
    else:
        memory[..., 0] = planes[..., 0]
        memory[:, ::2, 1], memory[:, 1::2, 1] = planes[:, ::2, 1], planes[:, ::2, 2]
    return RawPicture(memory, pixels), np.asarray(cv2.cvtColor(memory, DECODED[pixels]), np.uint8)


@pytest.mark.parametrize("transfer", WAYS)
@pytest.mark.parametrize("pixels", ["nv12", "yuyv422"])
def test_faces_of_a_raw_frame_score_as_those_of_the_frame_that_the_cpu_converts(
    shipped: Bundle, expected: Scores, pixels: Pixels, transfer: Transfer
) -> None:
    gpu = Gpu(shipped, transfer=transfer)
    place = gpu.stage.places[0]
    for index in range(STEADY + 4):
        raw, image = camera(gpu, index, pixels)
        boxes = [box(index), box(index + 100)]
        gpu.stage.prepare(place, image, boxes, whole=False, raw=raw)
        found = gpu.stage.scores(place, 2)
        np.testing.assert_allclose(found, expected(image, boxes, [0.0, 0.0]), atol=1e-6)
    assert gpu.stage.replays == 4, "the graph is the same"
    assert gpu.copies.on_host == 0
    assert (gpu.copies.to_device, gpu.copies.in_place) == ((STEADY + 4, 0) if transfer == "copy" else (0, STEADY + 4))
    assert gpu.copies.to_device_bytes == sum(gpu.device.to_device)


def test_a_captured_graph_is_right_for_every_kind_of_frame(shipped: Bundle, expected: Scores) -> None:
    gpu = Gpu(shipped, transfer="copy")
    place = gpu.stage.places[0]
    kinds: list[Pixels] = ["nv12"] * (STEADY + 1) + ["bgr24", "yuyv422", "nv12"]  # type: ignore[list-item]
    for index, pixels in enumerate(kinds):
        if pixels == "bgr24":
            raw, image = None, gpu.picture(index)
        else:
            raw, image = camera(gpu, index, pixels)
        gpu.stage.prepare(place, image, [box(index)], whole=False, raw=raw)
        found = gpu.stage.scores(place, 1)
        np.testing.assert_allclose(found, expected(image, [box(index)], [0.0]), atol=1e-6)
    assert gpu.stage.replays == 4


def test_nv12_moves_half_of_the_bytes_of_the_rows_with_faces(shipped: Bundle) -> None:
    moved = {}
    low = np.array([10, 41, 40, 71], np.float32)
    for pixels in ("bgr24", "nv12", "yuyv422"):
        gpu = Gpu(shipped, transfer="copy")
        raw, image = (None, gpu.picture(0)) if pixels == "bgr24" else camera(gpu, 0, pixels)  # type: ignore[arg-type]
        gpu.stage.prepare(gpu.stage.places[0], image, [low], whole=False, raw=raw)
        gpu.stage.scores(gpu.stage.places[0], 1)
        moved[pixels] = gpu.copies.to_device_bytes
        assert gpu.copies.per_frame == 1.0
    top, bottom = rows_with_faces([low], shipped.manifest.classifier.preprocess.margin, SIZE_HW[0])
    chroma_rows = (bottom + 1) // 2 - top // 2
    assert moved["bgr24"] == 3 * (bottom - top) * SIZE_HW[1]
    assert moved["yuyv422"] == 2 * (bottom - top) * SIZE_HW[1]
    assert moved["nv12"] == (bottom - top + chroma_rows) * SIZE_HW[1]


@pytest.mark.parametrize("transfer", WAYS)
def test_faces_are_levelled_where_the_contract_asks_for_it(
    shipped: Bundle, expected: Scores, transfer: Transfer
) -> None:
    gpu = Gpu(shipped, transfer=transfer, model=levelling(shipped.manifest.classifier))
    place, turned = gpu.stage.places[0], 0.0
    for index in range(STEADY + 4):
        boxes, angles = [box(index), box(index + 100)], [7.0 * index - 20, 0.0]
        gpu.stage.prepare(place, gpu.picture(index), boxes, whole=False, angles_deg=angles)
        wanted = expected(noise(index), boxes, angles)
        # An angle goes to the device as a float32 sine and cosine, which moves a place by a thousandth of a pixel.
        np.testing.assert_allclose(gpu.stage.scores(place, 2), wanted, atol=0.02)
        turned += float(np.abs(wanted[0] - expected(noise(index), boxes, [0.0, 0.0])[0]).max())
    assert turned > 0.2, "these faces score otherwise when they are not turned"


def test_angles_that_the_contract_does_not_ask_for_are_a_mistake(shipped: Bundle) -> None:
    gpu = Gpu(shipped)
    with pytest.raises(ValueError, match="1 angles for 1 faces"):
        gpu.stage.prepare(gpu.stage.places[0], gpu.picture(0), [box(0)], whole=False, angles_deg=[3.0])


@given(
    left=st.floats(-40, 120),
    top=st.floats(-60, 120),
    side=st.floats(1, 90),
    angle_deg=st.floats(-180, 180) | st.sampled_from([0.0, 45.0, 90.0]),
)
@settings(max_examples=60)
def test_the_rows_with_faces_hold_every_pixel_of_a_turned_one(
    left: float, top: float, side: float, angle_deg: float
) -> None:
    spec = PreprocessSpec(size_hw=(48, 48), colour="gray", mean=(0.5,), std=(0.25,), margin=0.1, alignment="eyes")
    face, image = np.array([left, top, left + side, top + side], np.float32), noise(3)
    first, last = rows_with_faces([face], spec.margin, SIZE_HW[0], [angle_deg])
    partial = np.full_like(image, 255)
    partial[first:last] = image[first:last]
    cropper, whole, found = FaceCropper(spec), *np.empty((2, 1, 48, 48), np.float32)
    cropper.crop_into(whole, image, face, angle_deg)
    cropper.crop_into(found, partial, face, angle_deg)
    np.testing.assert_array_equal(found, whole)


class OneBox:
    """The same face in every frame."""

    name, whole_frame, landmarks = "one", False, False

    def detect(self, image_bgr: NDArray[np.uint8]) -> Faces:
        assert image_bgr.shape == (*SIZE_HW, 3)
        return Faces(box(1)[None], np.ones(1, np.float32))


class Keep:
    name, lossless = "keep", True

    def __init__(self) -> None:
        self.scores: list[NDArray[np.float32]] = []

    def write(self, result: FrameResult) -> None:
        self.scores += [face.scores for face in result.faces]

    def close(self, *, complete: bool) -> None:
        pass


@pytest.mark.parametrize("pixels", ["nv12", "yuyv422"])
def test_raw_frames_on_standard_input_are_read_where_the_gpu_reads_them(shipped: Bundle, pixels: Pixels) -> None:
    gpu = Gpu(shipped, transfer="copy")
    data = b"".join(camera(gpu, seed, pixels)[0].memory.tobytes() for seed in range(12))
    layout = parse_raw(f"{SIZE_HW[1]}x{SIZE_HW[0]}:{pixels}@30")

    def through_the_loop(engine: Engine, memory: PinnedPictures | None, stage: FaceStage | None) -> Keep:
        reader, writer = os.pipe()

        def write() -> None:
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(data)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        keep, held = Keep(), Pipeline.frames_held(1)
        source = RawStdin(layout, pool_size=held, descriptor=reader, memory=memory)
        Pipeline(source, OneBox(), engine, [keep], smooth=0.0, detect_every=1, stage=stage).run()
        source.close()
        thread.join()
        os.close(reader)
        return keep

    with open_engine(shipped, backend="onnxruntime", precision="int8") as engine:
        wanted = through_the_loop(engine, None, None)
    found = through_the_loop(gpu.engine, gpu.pictures, gpu.stage)
    assert len(found.scores) == len(wanted.scores) == 12
    np.testing.assert_allclose(np.stack(found.scores), np.stack(wanted.scores), atol=1e-6)
    assert (gpu.copies.on_host, gpu.copies.to_device) == (0, 12)
