"""Launches of kernels/face.cu: faces cut out of a frame into a network's input, and the softmax of its output."""

from __future__ import annotations

import ctypes
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError
from edge_fer.core.faces import square_around
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.cuda.device import CudaDevice, Dim3, KernelArguments, Stream

PTX = "face.ptx"
"""Device code for compute capability 6.1 and newer, which drivers compile for their GPU (scripts/build_ptx.py)."""
BLOCK: Dim3 = (32, 8, 1)
ROWS_A_BLOCK = 32
BGR, NV12, YUYV = 0, 1, 2
"""Formats of a picture: what decoders give, and what cameras deliver."""

FACE = np.dtype([("left", "<i4"), ("top", "<i4"), ("width", "<i4"), ("height", "<i4")])
JOB = np.dtype(
    {
        "names": [
            "pixels", "chroma", "pitch", "chroma_pitch", "width", "height", "format", "count", "out_width",
            "out_height", "channels", "area", "scale", "offset",
        ],
        "formats": ["<u8", "<u8", *["<i4"] * 10, ("<f4", 3), ("<f4", 3)],
    },
    align=True,
)  # fmt: skip
"""The structures of face.cu, field by field; a test compares them with what a compiler makes of the source."""


def load_ptx() -> bytes:
    """The device code that ships with the project."""
    return (resources.files("edge_fer.cuda.kernels") / PTX).read_bytes()


def job_for(spec: PreprocessSpec) -> NDArray[np.void]:
    """A job with the contract's part filled in, shape ().

    Raises:
        BadInputError: the contract asks for an alignment, which the kernels cannot do.
    """
    if spec.alignment != "none":
        raise BadInputError(
            f"The model wants faces aligned by {spec.alignment}, which the kernels on the GPU cannot do.",
            fix="Run it with --device cpu, or a model that was trained without alignment.",
        )
    job = np.zeros((), JOB)
    job["out_height"], job["out_width"] = spec.size_hw
    job["channels"], job["area"] = spec.channels, spec.interpolation == "area"
    for channel in range(spec.channels):
        job["scale"][channel] = 1.0 / (255.0 * spec.std[channel])
        job["offset"][channel] = spec.mean[channel] / spec.std[channel]
    return job


def face_grid(spec: PreprocessSpec, faces: int) -> Dim3:
    """Blocks of a launch of ``cut_faces``."""
    height, width = spec.size_hw
    return -(-width // BLOCK[0]), -(-height // BLOCK[1]), faces


def bytes_moved(spec: PreprocessSpec, sides_px: NDArray[np.int64]) -> int:
    """Bytes that cutting faces out of BGR must read and write at least: every pixel of each square once, and the
    float32 input. ``sides_px`` (n,) are the squares' sides."""
    height, width = spec.size_hw
    return int(3 * np.square(sides_px).sum() + 4 * len(sides_px) * spec.channels * height * width)


class CudaFaceKernels:
    """The kernels for one frame in flight; see :class:`edge_fer.runtime.cuda_face_stage.FaceKernels`.

    Args:
        max_faces: the most faces of a frame.
    """

    def __init__(self, device: CudaDevice, model: ModelSpec, max_faces: int) -> None:
        self._device, self._spec, self._max_faces = device, model.preprocess, max_faces
        module = device.load_module(load_ptx())
        self._cut, self._softmax = module.kernel("cut_faces"), module.kernel("softmax_rows")
        self._memory = device.pinned((JOB.itemsize + max_faces * FACE.itemsize,), np.uint8, mapped=True)
        self._job = self._memory.array[: JOB.itemsize].view(JOB)[0]
        self._memory.array[: JOB.itemsize].view(JOB)[0] = job_for(model.preprocess)
        self._faces = self._memory.array[JOB.itemsize :].view(FACE)
        self._cut_arguments = KernelArguments(ctypes.c_uint64(self._memory.device_pointer), ctypes.c_uint64())
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
        format: int = BGR,
        chroma_pointer: int = 0,
    ) -> None:
        """Say what the next run of ``preprocess`` reads.

        Args:
            picture_pointer: device address of uint8 (H, W, 3) BGR, (H, W) luma of NV12, or (H, W, 2) YUYV.
            boxes_xyxy: float32 (n, 4), n at most ``max_faces``; ignored but for its length when ``whole``.
            whole: the picture is the face.
            chroma_pointer: of NV12: device address of uint8 (H / 2, W) with U and V in turn.

        Raises:
            ValueError: more faces than fit.
        """
        count, (height, width) = len(boxes_xyxy), size_hw
        if count > self._max_faces:
            raise ValueError(f"{count} faces, and room for {self._max_faces}")
        job = self._job
        job["pixels"], job["chroma"] = picture_pointer, chroma_pointer
        job["pitch"], job["chroma_pitch"] = width * {BGR: 3, NV12: 1, YUYV: 2}[format], width
        job["width"], job["height"], job["format"], job["count"] = width, height, format, count
        for index in range(count):
            if whole:
                self._faces[index] = (0, 0, width, height)
                continue
            left, top, side = square_around(boxes_xyxy[index], self._spec.margin)
            self._faces[index] = (left, top, side, side)

    def preprocess(self, input_pointer: int, n: int, stream: Stream) -> None:
        """Queue one launch that writes float32 (n, C, H, W)."""
        self._cut_arguments.values[1].value = input_pointer
        self._device.launch(self._cut, face_grid(self._spec, n), BLOCK, self._cut_arguments, stream)

    def softmax(self, logits_pointer: int, scores_pointer: int, n: int, stream: Stream) -> None:
        """Queue one launch: float32 (n, classes) to float32 (n, classes), rows sum to 1."""
        values = self._softmax_arguments.values
        values[0].value, values[1].value, values[2].value = logits_pointer, scores_pointer, n
        grid = (-(-n // ROWS_A_BLOCK), 1, 1)
        self._device.launch(self._softmax, grid, (ROWS_A_BLOCK, 1, 1), self._softmax_arguments, stream)
