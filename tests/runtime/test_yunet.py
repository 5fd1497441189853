"""YuNet's own file on our engines: the faces that OpenCV finds with it."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.backends.registry import sized
from edge_fer.backends.tensorrt.plan import Order, build_plan
from edge_fer.backends.yunet import SPEC, rewritten
from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.core.faces import iou
from edge_fer.runtime.detectors.base import open_detector

FILE = os.environ.get("EDGE_FER_YUNET", "")
has_file = pytest.mark.skipif(
    not Path(FILE).is_file(), reason="EDGE_FER_YUNET names no YuNet file (edge-fer fetch yunet)"
)


@pytest.fixture(scope="module")
def portrait() -> NDArray[np.uint8]:
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut()[..., ::-1])


@has_file
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("size", [(512, 512), (360, 640), (200, 333)])
def test_it_finds_what_opencv_finds(
    backend: str, size: tuple[int, int], portrait: NDArray[np.uint8], tmp_path: Path
) -> None:
    picture = np.full((*size, 3), 128, np.uint8)
    side = min(size)
    picture[:side, :side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    ours = open_face_detector(f"yunet={FILE}", min_face_px=20, backend=backend, cache=tmp_path).detect(picture)
    theirs = open_detector(f"yunet-opencv={FILE}", min_face_px=20, score=0.6).detect(picture)
    assert len(ours) == len(theirs) == 1
    assert iou(ours.boxes_xyxy, theirs.boxes_xyxy)[0, 0] > 0.9
    assert ours.scores[0] == pytest.approx(theirs.scores[0], abs=0.05)
    assert ours.landmarks is not None
    assert theirs.landmarks is not None
    eyes = float(np.linalg.norm(theirs.landmarks[0, 0] - theirs.landmarks[0, 1]))
    assert np.linalg.norm(ours.landmarks[0] - theirs.landmarks[0], axis=1).max() < 0.06 * eyes


@has_file
def test_tensorrt_builds_it_without_a_finding(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for Linux and Windows on x86-64 only")
    spec = sized(SPEC, (384, 640))
    built = build_plan(trt, Order(rewritten(Path(FILE), tmp_path), "fp32", spec.input_shape, 1, 256 << 20, sm=(8, 6)))
    assert (built.record.warnings, built.record.harmless) == ((), ())


@has_file
def test_it_searches_near_known_faces_and_is_rewritten_once(portrait: NDArray[np.uint8], tmp_path: Path) -> None:
    detector = open_face_detector(f"yunet={FILE}", min_face_px=40, backend="onnxruntime", cache=tmp_path)
    found = detector.detect(portrait)
    near = detector.detect_near(portrait, found.boxes_xyxy + 5)  # type: ignore[attr-defined]
    assert iou(near.boxes_xyxy, found.boxes_xyxy)[0, 0] > 0.7
    (kept,) = tmp_path.glob("yunet-*.onnx")
    written = kept.stat().st_mtime_ns
    open_face_detector(f"yunet={FILE}", backend="onnxruntime", cache=tmp_path)
    assert kept.stat().st_mtime_ns == written


def test_what_is_not_yunet_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no YuNet model .*missing\.onnx"):
        open_face_detector("yunet=missing.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(BadInputError, match="not an ONNX model"):
        open_face_detector(f"yunet={tmp_path / 'junk.onnx'}", cache=tmp_path)
    other = Path(__file__).resolve().parents[2] / "engines" / "edge-fer-face"
    (onnx,) = other.glob("*fp32*.onnx")
    with pytest.raises(BadInputError, match="is not YuNet: its outputs are"):
        open_face_detector(f"yunet={onnx}", cache=tmp_path)
    with pytest.raises(UsageError, match="no int8 form"):
        open_face_detector("yunet=any.onnx", precision="int8")
