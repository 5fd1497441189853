"""The device code, compiled for the host, against the pixels of the CPU's loop; and that the shipped PTX is of it."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_fer.core.spec import DetectorSpec, PreprocessSpec
from edge_fer.cuda.face_kernels import (
    BLOCK,
    FACE,
    FORMATS,
    JOB,
    bytes_moved,
    cutter,
    detector_job_for,
    face_grid,
    fitted,
    job_for,
    load_ptx,
)
from edge_fer.cuda.raw_picture import Pixels
from edge_fer.runtime.detectors.pyramid_input import picture_into
from edge_fer.runtime.preprocess import FaceCropper, face_pixels, normalise_into, square_around

ROOT = Path(__file__).resolve().parents[2]
GREY = PreprocessSpec(size_hw=(48, 48), colour="gray", mean=(0.508,), std=(0.255,))
COLOUR = PreprocessSpec(
    size_hw=(56, 40), colour="rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), margin=0.2
)
LINEAR = GREY.model_copy(update={"interpolation": "linear", "margin": 0.1})
SPECS = {"grey": GREY, "colour": COLOUR, "linear": LINEAR}
DETECTORS = {
    "grey": DetectorSpec(name="grey", arch="x", size_hw=(96, 160)),
    "bgr": DetectorSpec(name="bgr", arch="x", size_hw=(128, 96), colour="bgr", mean=0.4, std=0.3),
}


def frame(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth shapes and noise: both are what a camera gives."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


def run(
    library: ctypes.CDLL,
    kernel: str,
    contract: NDArray[np.void],
    pixels: NDArray[np.uint8],
    size_hw: tuple[int, int],
    faces: list[tuple[float, ...]],
    *,
    kind: Pixels = "bgr24",
    chroma: NDArray[np.uint8] | None = None,
    dtype: type = np.float32,
) -> NDArray[np.float32]:
    """Run a kernel on the host over a job laid out as the device would see it. Faces of four numbers are upright."""
    memory = np.zeros(JOB.itemsize + len(faces) * FACE.itemsize, np.uint8)
    job = memory[: JOB.itemsize].view(JOB)
    job[0] = contract
    job["pixels"], job["pitch"] = pixels.ctypes.data, pixels.strides[0]
    if chroma is not None:
        job["chroma"], job["chroma_pitch"] = chroma.ctypes.data, chroma.strides[0]
    job["height"], job["width"], job["format"], job["count"] = *size_hw, FORMATS[kind], len(faces)
    memory[JOB.itemsize :].view(FACE)[:] = [face if len(face) == 6 else (*face, 1.0, 0.0) for face in faces]
    plane_hw = int(contract["plane_height"]), int(contract["plane_width"])
    out = np.full((len(faces), int(contract["channels"]), *plane_hw), np.nan, dtype)
    geometry = (ctypes.c_uint * 6)(*face_grid(plane_hw, len(faces)), *BLOCK)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (memory, out))
    getattr(library, f"host_{kernel}")(geometry, *pointers)
    return out


def cut(
    library: ctypes.CDLL,
    spec: PreprocessSpec,
    pixels: NDArray[np.uint8],
    size_hw: tuple[int, int],
    faces: list[tuple[float, ...]],
    *,
    kind: Pixels = "bgr24",
    chroma: NDArray[np.uint8] | None = None,
) -> NDArray[np.float32]:
    """Faces as the kernel of their contract cuts them."""
    kernel = cutter(turns=spec.alignment == "eyes", half=False)
    return run(library, kernel, job_for(spec), pixels, size_hw, faces, kind=kind, chroma=chroma)


def levels(spec: PreprocessSpec, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Back from the network's input to 0..255."""
    mean, std = (np.reshape(part, (-1, 1, 1)) for part in (spec.mean, spec.std))
    return (values.astype(np.float64) * std + mean) * 255


def assert_same_pixels(spec: PreprocessSpec, got: NDArray[np.float32], want: NDArray[np.float32]) -> None:
    """At most one level apart, and that seldom: OpenCV sums areas in float32, the kernel in whole numbers. A repeated
    border repeats such a place too."""
    gaps = np.abs(levels(spec, got) - levels(spec, want))
    assert gaps.max() < 1.01
    assert (gaps > 0.5).mean() < 0.06


@pytest.mark.parametrize("name", sorted(SPECS))
@given(
    x=st.floats(-80, 330),
    y=st.floats(-80, 250),
    width=st.floats(0.2, 400),
    shape=st.floats(0.6, 1.6),
    odd=st.integers(0, 3),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_it_cuts_the_pixels_that_the_cpu_cuts(
    host_kernels: ctypes.CDLL, name: str, x: float, y: float, width: float, shape: float, odd: int, seed: int
) -> None:
    """Boxes inside, over the edges, outside, of one pixel, larger than the frame; frames of odd sizes."""
    spec, image = SPECS[name], frame(181 + odd, 242 + odd, seed)
    box = np.array([x, y, x + width, y + width * shape], np.float32)
    left, top, side = square_around(box, spec.margin)
    want = np.empty((spec.channels, *spec.size_hw), np.float32)
    FaceCropper(spec).crop_into(want, image, box)
    got = cut(host_kernels, spec, image, image.shape[:2], [(left, top, side, side)])[0]
    assert_same_pixels(spec, got, want)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_all_faces_of_a_frame_and_whole_frames_in_one_launch(host_kernels: ctypes.CDLL, name: str) -> None:
    spec, image = SPECS[name], frame(200, 320)
    boxes = [np.array(box, np.float32) for box in ((10, 20, 110, 130), (200, -10, 290, 90), (300, 180, 340, 230))]
    squares = [square_around(box, spec.margin) for box in boxes]
    rectangles = [(left, top, side, side) for left, top, side in squares] + [(0, 0, 320, 200)]
    got = cut(host_kernels, spec, image, image.shape[:2], rectangles)
    cropper, want = FaceCropper(spec), np.empty_like(got)
    for row, box in zip(want, boxes, strict=False):
        cropper.crop_into(row, image, box)
    cropper.whole_into(want[-1], image)
    for one, other in zip(got, want, strict=True):
        assert_same_pixels(spec, one, other)


def test_a_face_of_the_network_s_size_is_copied_bit_by_bit(host_kernels: ctypes.CDLL) -> None:
    image = frame(100, 100)
    want = np.empty((1, 48, 48), np.float32)
    FaceCropper(GREY).crop_into(want, image, np.array([20, 30, 68, 78], np.float32))
    np.testing.assert_array_equal(cut(host_kernels, GREY, image, (100, 100), [(20, 30, 48, 48)])[0], want)


def levelled(spec: PreprocessSpec, image: NDArray[np.uint8], box: NDArray[np.float32], angle_deg: float) -> NDArray:
    """By OpenCV: the square turned at the picture's scale, then coloured and resized."""
    left, top, side = square_around(box, spec.margin)
    turn = cv2.getRotationMatrix2D((left + (side - 1) / 2, top + (side - 1) / 2), angle_deg, 1.0)
    turn[:, 2] -= (left, top)
    turned = cv2.warpAffine(image, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    out = np.empty((spec.channels, *spec.size_hw), np.float32)
    normalise_into(out, face_pixels(np.asarray(turned, np.uint8), spec), spec)
    return out


@pytest.mark.parametrize("name", sorted(SPECS))
@given(
    x=st.floats(-60, 300),
    y=st.floats(-60, 200),
    width=st.floats(0.2, 300),
    angle_deg=st.floats(-180, 180) | st.sampled_from([0.0, 90.0, -90.0, 180.0]),
    seed=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_it_levels_eyes_as_the_cpu_does(
    host_kernels: ctypes.CDLL, name: str, x: float, y: float, width: float, angle_deg: float, seed: int
) -> None:
    spec, image = SPECS[name].model_copy(update={"alignment": "eyes"}), frame(181, 243, seed)
    box = np.array([x, y, x + width, y + width], np.float32)
    left, top, side = square_around(box, spec.margin)
    angle = math.radians(angle_deg)
    got = cut(host_kernels, spec, image, image.shape[:2], [(left, top, side, side, math.cos(angle), math.sin(angle))])
    assert_same_pixels(spec, got[0], levelled(spec, image, box, angle_deg))


def test_the_kernel_that_can_turn_gives_upright_faces_unchanged(host_kernels: ctypes.CDLL) -> None:
    image, faces = frame(120, 160), [(-7, 5, 90, 90), (100, 60, 31, 31)]
    turning = GREY.model_copy(update={"alignment": "eyes"})
    upright, same = (cut(host_kernels, spec, image, (120, 160), faces) for spec in (GREY, turning))
    np.testing.assert_array_equal(same, upright)


def test_half_precision_is_rounded_as_numpy_rounds_it(host_kernels: ctypes.CDLL) -> None:
    """Of the shim, which stands for an instruction; and both kernels write what they would write, rounded."""
    host_kernels.host_half_bits.argtypes, host_kernels.host_half_bits.restype = [ctypes.c_float], ctypes.c_uint16
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[:-1] + halves[1:]) / 2
    values = np.concatenate([halves[::37], between[::37], np.nextafter(between[::37], np.float32(1e9))])
    values = np.concatenate([values, -values, np.array([0.0, -0.0, 1e-9, 65519.9, 65520, 1e30, np.inf], np.float32)])
    got = np.array([host_kernels.host_half_bits(float(value)) for value in values], np.uint16)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, values.astype(np.float16).view(np.uint16))
    image, faces = frame(120, 160), [(10, 5, 90, 90, 0.8, 0.6), (100, 60, 31, 31, 1.0, 0.0)]
    for turns in (False, True):
        whole, half = (
            run(host_kernels, cutter(turns=turns, half=half), job_for(COLOUR), image, (120, 160), faces, dtype=dtype)
            for half, dtype in ((False, np.float32), (True, np.float16))
        )
        np.testing.assert_array_equal(half, whole.astype(np.float16))


@pytest.mark.parametrize("name", sorted(DETECTORS))
@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_frame_is_made_small_for_a_detector_as_the_cpu_does_it(
    host_kernels: ctypes.CDLL, name: str, height: int, width: int, seed: int
) -> None:
    """Far larger, far smaller and far longer than the detector's input; what is left free is mid-grey."""
    spec, image = DETECTORS[name], frame(height, width, seed)
    want = np.empty(spec.input_shape, np.float32)
    picture_into(want, image, spec)
    job = detector_job_for(spec)
    job["out_height"], job["out_width"] = small = fitted((height, width), spec.size_hw)
    job["area"] = small[0] <= height and small[1] <= width
    got = run(host_kernels, "cut_faces", job, image, (height, width), [(0, 0, width, height)])[0]
    gaps = np.abs(got.astype(np.float64) - want) * 255 * spec.std
    assert gaps.max() < 1.01
    assert (gaps > 0.5).mean() < 0.02
    free = np.ones(spec.size_hw, np.bool_)
    free[: small[0], : small[1]] = False
    np.testing.assert_array_equal(got[:, free], want[:, free])


def test_rows_may_be_padded(host_kernels: ctypes.CDLL) -> None:
    padded = np.zeros((90, 120, 3), np.uint8)
    padded[:, :101] = frame(90, 101)
    view = padded[:, :101]
    got = cut(host_kernels, GREY, view, (90, 101), [(-5, 3, 70, 70)])
    want = cut(host_kernels, GREY, np.ascontiguousarray(view), (90, 101), [(-5, 3, 70, 70)])
    np.testing.assert_array_equal(got, want)


@given(x=st.integers(-40, 200), y=st.integers(-40, 140), side=st.integers(1, 220), seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_what_cameras_deliver_gives_what_converting_it_first_gives(
    host_kernels: ctypes.CDLL, x: int, y: int, side: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    height, width = 160, 212
    padded = rng.integers(0, 256, (height * 3 // 2, width + 13), dtype=np.uint8)
    luma, chroma = padded[:height, :width], padded[height:, :width]
    packed = rng.integers(0, 256, (height, 2 * width + 7), dtype=np.uint8)[:, : 2 * width].reshape(height, width, 2)
    face = [(x, y, side, side)]
    for kind, pixels, uv, bgr in (
        ("nv12", luma, chroma, cv2.cvtColor(np.vstack([luma, chroma]), cv2.COLOR_YUV2BGR_NV12)),
        ("yuyv422", packed, None, cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_YUYV)),
    ):
        got = cut(host_kernels, COLOUR, pixels, (height, width), face, kind=kind, chroma=uv)
        want = cut(host_kernels, COLOUR, np.ascontiguousarray(bgr), (height, width), face)
        np.testing.assert_array_equal(got, want)


@given(st.integers(1, 40), st.integers(2, 9), st.integers(0, 9), st.floats(0.1, 80))
@settings(max_examples=40, deadline=None)
def test_softmax_rows_sum_to_one_and_do_not_overflow(
    host_kernels: ctypes.CDLL, rows: int, classes: int, seed: int, spread: float
) -> None:
    logits = (np.random.default_rng(seed).normal(size=(rows, classes)) * spread).astype(np.float32)
    scores = np.full_like(logits, np.nan)
    geometry = (ctypes.c_uint * 6)(-(-rows // 32), 1, 1, 32, 1, 1)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (logits, scores))
    host_kernels.host_softmax_rows(geometry, *pointers, rows, classes)
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(scores, shifted / shifted.sum(axis=1, keepdims=True), atol=2e-6)


def test_the_structures_are_those_of_the_source(host_kernels: ctypes.CDLL) -> None:
    layout = (ctypes.c_uint * 20).in_dll(host_kernels, "host_job_layout")
    offsets = [JOB.fields[name][1] for name in JOB.names]
    assert list(layout) == [JOB.itemsize, FACE.itemsize, *offsets]


def test_the_bytes_that_must_move_are_counted() -> None:
    assert bytes_moved(GREY, np.array([100, 10])) == 3 * (10000 + 100) + 2 * 4 * 48 * 48


@pytest.fixture(scope="module")
def build_ptx() -> ModuleType:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed: pip install 'edge-fer[dev]'")
    if importlib.util.find_spec("nvidia.cuda_nvrtc") is None:
        pytest.skip("NVRTC is not installed: pip install 'nvidia-cuda-nvrtc-cu12==12.0.*'")
    spec = importlib.util.spec_from_file_location("build_ptx", ROOT / "scripts" / "build_ptx.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_ptx_is_what_the_source_gives(build_ptx: ModuleType) -> None:
    assert build_ptx.compile_to_ptx(build_ptx.KERNELS / "face.cu") == load_ptx()


def test_source_that_does_not_compile_is_refused_with_the_compiler_s_words(
    build_ptx: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "bad.cu").write_text('extern "C" __global__ void f() { no_such_thing(); }')
    with pytest.raises(RuntimeError, match="no_such_thing"):
        build_ptx.compile_to_ptx(tmp_path / "bad.cu")


def test_it_assembles_for_pascal_within_its_registers_and_without_spills(tmp_path: Path) -> None:
    """64 registers let four blocks of 256 threads be resident on a multiprocessor of sm_61, 80 let three."""
    found = importlib.util.find_spec("nvidia.cuda_nvcc")
    where = [str(Path(place) / "bin") for place in (found.submodule_search_locations or [])] if found else []
    ptxas = shutil.which("ptxas", path=":".join(where)) or shutil.which("ptxas")
    if ptxas is None:
        pytest.skip("ptxas is not installed: pip install 'nvidia-cuda-nvcc-cu12==12.0.*'")
    (tmp_path / "face.ptx").write_bytes(load_ptx())
    command = [ptxas, "-v", "-arch=sm_61", "-o", str(tmp_path / "face.cubin"), str(tmp_path / "face.ptx")]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    kernels = re.findall(r"Compiling entry function '(\w+)' for 'sm_61'", said)
    assert set(re.findall(r"(\d+) bytes stack frame", said)) == {"0"}
    assert set(re.findall(r"(\d+) bytes spill", said)) == {"0"}
    used = dict(zip(kernels, map(int, re.findall(r"Used (\d+) registers", said)), strict=True))
    cutters = {cutter(turns=turns, half=half): turns for turns in (False, True) for half in (False, True)}
    assert set(used) == {"softmax_rows", *cutters}
    assert all(registers <= (80 if cutters.get(name) else 64) for name, registers in used.items()), used


def test_the_script_says_when_the_ptx_is_stale(build_ptx: ModuleType) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build_ptx.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
