"""Launches of kernels/face.cu: faces cut out of a frame into a network's input, the softmax of its output, and the
frame made small for a detector."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.faces import square_around
from edge_fer.core.spec import DetectorSpec, ModelSpec, PreprocessSpec
from edge_fer.cuda.device import CudaDevice, Dim3, Kernel, KernelArguments, Stream
from edge_fer.cuda.raw_picture import Pixels

PTX = "face.ptx"
"""Device code for compute capability 6.1 and newer, which drivers compile for their GPU (scripts/build_ptx.py)."""
BLOCK: Dim3 = (32, 8, 1)
ROWS_A_BLOCK = 32
FORMATS: dict[Pixels, int] = {"bgr24": 0, "nv12": 1, "yuyv422": 2}
"""What decoders give, and what cameras deliver, as the kernels number it."""
GREY, RGB, BLUE_FIRST = 0, 1, 2
"""Colours that a picture is resized in."""
PIXEL_BYTES: dict[Pixels, int] = {"bgr24": 3, "nv12": 1, "yuyv422": 2}
"""Bytes of a row, by its pixels; of nv12 in both planes."""

FACE = np.dtype(
    [("left", "<i4"), ("top", "<i4"), ("width", "<i4"), ("height", "<i4"), ("cosine", "<f4"), ("sine", "<f4")]
)
JOB = np.dtype(
    {
        "names": [
            "pixels", "chroma", "pitch", "chroma_pitch", "width", "height", "format", "count", "out_width",
            "out_height", "plane_width", "plane_height", "colour", "channels", "area", "scale", "offset", "fill",
        ],
        "formats": ["<u8", "<u8", *["<i4"] * 13, ("<f4", 3), ("<f4", 3), "<f4"],
    },
    align=True,
)  # fmt: skip
"""The structures of face.cu, field by field; a test compares them with what a compiler makes of the source."""


def load_ptx() -> bytes:
    """The device code that ships with the project."""
    return (resources.files("edge_fer.cuda.kernels") / PTX).read_bytes()


def job_for(spec: PreprocessSpec) -> NDArray[np.void]:
    """A job with the contract's part filled in, shape ()."""
    job = np.zeros((), JOB)
    job["out_height"], job["out_width"] = job["plane_height"], job["plane_width"] = spec.size_hw
    job["colour"] = GREY if spec.colour == "gray" else RGB
    job["channels"], job["area"] = spec.channels, spec.interpolation == "area"
    for channel in range(spec.channels):
        job["scale"][channel] = 1.0 / (255.0 * spec.std[channel])
        job["offset"][channel] = spec.mean[channel] / spec.std[channel]
    return job


def detector_job_for(spec: DetectorSpec) -> NDArray[np.void]:
    """The same for a detector's input: the picture in its upper left corner, the rest mid-grey."""
    job = np.zeros((), JOB)
    job["plane_height"], job["plane_width"] = spec.size_hw
    job["colour"], job["channels"] = BLUE_FIRST, spec.input_shape[0]
    job["scale"], job["offset"] = 1 / (255 * spec.std), spec.mean / spec.std
    job["fill"] = (128 / 255 - spec.mean) / spec.std
    return job


def fitted(size_hw: tuple[int, int], into_hw: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture that is made smaller or larger to fit and kept in shape."""
    factor = min(into_hw[0] / size_hw[0], into_hw[1] / size_hw[1])
    return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))


def face_grid(size_hw: tuple[int, int], faces: int) -> Dim3:
    """Blocks of a launch of ``cut_faces`` for inputs of (height, width)."""
    height, width = size_hw
    return -(-width // BLOCK[0]), -(-height // BLOCK[1]), faces


def bytes_moved(spec: PreprocessSpec, sides_px: NDArray[np.int64]) -> int:
    """Bytes that cutting faces out of BGR must read and write at least: every pixel of each square once, and the
    float32 input. ``sides_px`` (n,) are the squares' sides."""
    height, width = spec.size_hw
    return int(3 * np.square(sides_px).sum() + 4 * len(sides_px) * spec.channels * height * width)


def cutter(*, turns: bool, half: bool) -> str:
    """Name of the kernel: for faces that may be turned, and for an input of half precision."""
    return f"cut_{'turned_' if turns else ''}faces{'_half' if half else ''}"


class _Work:
    """A job with its faces, in memory that the device reads, and the launches of one kernel over it."""

    def __init__(self, device: CudaDevice, kernel: Kernel, job: NDArray[np.void], faces: int) -> None:
        self._device, self._kernel = device, kernel
        self._memory = device.pinned((JOB.itemsize + faces * FACE.itemsize,), np.uint8, mapped=True)
        jobs = self._memory.array[: JOB.itemsize].view(JOB)
        jobs[0] = job
        self.job = jobs[0]
        self.faces = self._memory.array[JOB.itemsize :].view(FACE)
        self._arguments = KernelArguments(ctypes.c_uint64(self._memory.device_pointer), ctypes.c_uint64())

    def read(
        self,
        pointer: int,
        size_hw: tuple[int, int],
        pixels: Pixels,
        chroma_pointer: int | None,
        pitch: int | None,
    ) -> None:
        """Say where the picture lies."""
        job, (height, width) = self.job, size_hw
        pitch = pitch or width * PIXEL_BYTES[pixels]
        job["pixels"], job["pitch"] = pointer, pitch
        job["chroma"], job["chroma_pitch"] = chroma_pointer or pointer + height * pitch, pitch
        job["width"], job["height"], job["format"] = width, height, FORMATS[pixels]

    def launch(self, input_pointer: int, n: int, size_hw: tuple[int, int], stream: Stream) -> None:
        self._arguments.values[1].value = input_pointer
        self._device.launch(self._kernel, face_grid(size_hw, n), BLOCK, self._arguments, stream)


class CudaFaceKernels:
    """The kernels for one frame in flight; see :class:`edge_fer.runtime.cuda_face_stage.FaceKernels`.

    Args:
        max_faces: the most faces of a frame.
        half: the network's input is float16.
    """

    def __init__(self, device: CudaDevice, model: ModelSpec, max_faces: int, *, half: bool = False) -> None:
        self._device, self._spec, self._max_faces = device, model.preprocess, max_faces
        module = device.load_module(load_ptx())
        self._turns = model.preprocess.alignment == "eyes"
        kernel = module.kernel(cutter(turns=self._turns, half=half))
        self._work = _Work(device, kernel, job_for(model.preprocess), max_faces)
        self._faces = self._work.faces
        self._softmax = module.kernel("softmax_rows")
        self._softmax_arguments = KernelArguments(
            ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_int32(), ctypes.c_int32(len(model.labels))
        )

    def describe(
        self,
        picture_pointer: int,
        size_hw: tuple[int, int],
        boxes_xyxy: NDArray[np.float32],
        *,
        whole: bool = False,
        angles_deg: Sequence[float] = (),
        pixels: Pixels = "bgr24",
        chroma_pointer: int | None = None,
        pitch: int | None = None,
    ) -> None:
        """Say what the next run of ``preprocess`` reads.

        Args:
            picture_pointer: device address of the picture; see :class:`edge_fer.cuda.raw_picture.RawPicture`.
            boxes_xyxy: float32 (n, 4), n at most ``max_faces``; ignored but for its length when ``whole``.
            whole: the picture is the face.
            angles_deg: how far each face is off level, clockwise; empty: not at all. Only a contract with alignment
                takes them.
            pixels: the layout of these bytes.
            chroma_pointer: of nv12: device address of uint8 (H / 2, W) with U and V in turn; ``None``: below the luma.
            pitch: bytes from one row to the next, of nv12 in both planes; ``None``: rows follow without a gap.

        Raises:
            ValueError: more faces than fit, or angles for a contract without alignment.
        """
        count, (height, width) = len(boxes_xyxy), size_hw
        if count > self._max_faces:
            raise ValueError(f"{count} faces, and room for {self._max_faces}")
        if len(angles_deg) not in ((0, count) if self._turns else (0,)):
            raise ValueError(f"{len(angles_deg)} angles for {count} faces")
        self._work.read(picture_pointer, size_hw, pixels, chroma_pointer, pitch)
        self._work.job["count"] = count
        for index in range(count):
            if whole:
                self._faces[index] = (0, 0, width, height, 1.0, 0.0)
                continue
            left, top, side = square_around(boxes_xyxy[index], self._spec.margin)
            angle = math.radians(angles_deg[index]) if len(angles_deg) else 0.0
            self._faces[index] = (left, top, side, side, math.cos(angle), math.sin(angle))

    def preprocess(self, input_pointer: int, n: int, stream: Stream) -> None:
        """Queue one launch that writes float32 (n, C, H, W), or float16."""
        self._work.launch(input_pointer, n, self._spec.size_hw, stream)

    def softmax(self, logits_pointer: int, scores_pointer: int, n: int, stream: Stream) -> None:
        """Queue one launch: float32 (n, classes) to float32 (n, classes), rows sum to 1."""
        values = self._softmax_arguments.values
        values[0].value, values[1].value, values[2].value = logits_pointer, scores_pointer, n
        grid = (-(-n // ROWS_A_BLOCK), 1, 1)
        self._device.launch(self._softmax, grid, (ROWS_A_BLOCK, 1, 1), self._softmax_arguments, stream)


class CudaDetectorKernel:
    """Makes a frame small enough for a detector, straight in its input: the pixels of
    :func:`edge_fer.runtime.detectors.pyramid_input.picture_into`.

    Args:
        half: the detector's input is float16.
    """

    def __init__(self, device: CudaDevice, spec: DetectorSpec, *, half: bool = False) -> None:
        self._spec = spec
        kernel = device.load_module(load_ptx()).kernel(cutter(turns=False, half=half))
        self._work = _Work(device, kernel, detector_job_for(spec), 1)

    def describe(
        self,
        picture_pointer: int,
        size_hw: tuple[int, int],
        *,
        pixels: Pixels = "bgr24",
        chroma_pointer: int | None = None,
        pitch: int | None = None,
    ) -> tuple[float, float]:
        """Say what the next run of ``preprocess`` reads; see :meth:`CudaFaceKernels.describe`.

        Returns:
            what one pixel of the frame is in the input, along x and y.
        """
        (height, width), job = size_hw, self._work.job
        small_h, small_w = fitted(size_hw, self._spec.size_hw)
        self._work.read(picture_pointer, size_hw, pixels, chroma_pointer, pitch)
        job["out_height"], job["out_width"], job["count"] = small_h, small_w, 1
        job["area"] = small_h <= height and small_w <= width
        self._work.faces[0] = (0, 0, width, height, 1.0, 0.0)
        return small_w / width, small_h / height

    def preprocess(self, input_pointer: int, stream: Stream) -> None:
        """Queue one launch that writes float32 (1, C, H, W), or float16."""
        self._work.launch(input_pointer, 1, self._spec.size_hw, stream)
