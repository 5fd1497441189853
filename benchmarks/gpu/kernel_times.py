"""The face kernel and copies on a device: pixels against the CPU's, the kernel's time beside that of the bytes it must
move, and what a call costs the host. Used by prove.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from frame_path import KERNEL_FACTOR, bar, device_ms
from numpy.typing import NDArray

from edge_fer.core.bundle import DEFAULT_DETECTOR, find_bundle, open_bundle
from edge_fer.core.errors import EdgeFerError
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.cuda.device import CudaDevice, Stream
from edge_fer.cuda.face_kernels import CudaDetectorKernel, CudaFaceKernels, bytes_moved
from edge_fer.runtime.preprocess import FaceCropper

Answer = dict[str, Any]
FACES = (1, 4, 8)
LEVEL = 1.01
"""Largest difference of an 8-bit value between the kernel and the CPU."""
SCORES_AFTER = 256
"""Bytes behind the logits of an empty launch."""


def measure_kernels(device: CudaDevice, frame_hw: tuple[int, int], side_px: int, repeats: int) -> Answer:
    """With the shipped network's contract, on faces of ``side_px`` in a frame of ``frame_hw``.

    Raises:
        EdgeFerError: the kernel's pixels are not the CPU's.
    """
    model = open_bundle(find_bundle()).manifest.classifier
    spec = model.preprocess
    answer: Answer = {"model": model.name, "frame_hw": frame_hw, "side_px": side_px, "bars": {}}
    stream = device.stream()
    frame = device.pinned((*frame_hw, 3), np.uint8, mapped=True)
    frame.array[:] = np.random.default_rng(0).integers(0, 256, frame.array.shape, dtype=np.uint8)
    copy = device.allocate(frame.nbytes)
    device.copy_to_device(copy, frame, frame.nbytes, stream)
    for faces in FACES:
        boxes = boxes_in(frame_hw, side_px, faces)
        launcher = CudaFaceKernels(device, model, faces)
        rows = device.pinned((faces, *model.input_shape), np.float32, mapped=True)
        target = device.allocate(rows.nbytes)

        def empty(launcher: CudaFaceKernels = launcher, at: int = target.pointer) -> None:
            """The least that a kernel does: one row of logits, in memory that the next one writes."""
            launcher.softmax(at, at + SCORES_AFTER, 1, stream)

        def cut(launcher: CudaFaceKernels = launcher, at: int = target.pointer, n: int = faces) -> None:
            launcher.preprocess(at, n, stream)

        empty_ms = device_ms(device, stream, empty, repeats)
        moved = bytes_moved(spec, np.full(faces, side_px, np.int64))
        for place, pointer in (("device", copy.pointer), ("mapped", frame.device_pointer)):
            launcher.describe(pointer, frame_hw, boxes)
            found = timed(device, stream, cut, repeats)
            rate = moved / found["device_ms_p50"] / 1e6
            answer[f"cut {faces} faces, frame in {place} memory"] = {**found, "bytes": moved, "gb_per_s": rate}
            device.copy_to_host(rows, target, rows.nbytes, stream)
            stream.synchronize()
            _check_pixels(spec, rows.array, frame.array, boxes)
            if place == "device" and device.info.memory_bytes_per_s:
                needed_ms = 1e3 * moved / device.info.memory_bytes_per_s
                answer["bars"][f"the kernel beside its bytes, {faces} faces"] = bar(
                    found["device_ms_p50"], KERNEL_FACTOR * needed_ms + empty_ms, "ms"
                )
        if faces == 1 and device.has_graphs:
            device.begin_capture(stream)
            cut()
            graph = device.end_capture(stream)
            answer["the same as a graph, 1 face"] = timed(
                device, stream, lambda graph=graph: graph.launch(stream), repeats
            )
    answer |= _other_kernels(device, stream, model, frame.array, copy.pointer, side_px, repeats)
    height, width = frame_hw
    for what, nbytes in (
        ("BGR frame", frame.nbytes),
        ("NV12 frame", height * width * 3 // 2),
        ("face's rows", side_px * width * 3),
    ):
        found = timed(device, stream, lambda nbytes=nbytes: device.copy_to_device(copy, frame, nbytes, stream), repeats)
        answer[f"copy {what}"] = {**found, "bytes": nbytes, "gb_per_s": nbytes / found["device_ms_p50"] / 1e6}
    return answer


def _other_kernels(
    device: CudaDevice,
    stream: Stream,
    model: ModelSpec,
    frame: NDArray[np.uint8],
    pointer: int,
    side_px: int,
    repeats: int,
) -> Answer:
    """Levelled faces, and a frame made small for the shipped detector."""
    faces, frame_hw = max(FACES), (frame.shape[0], frame.shape[1])
    boxes, angles = boxes_in(frame_hw, side_px, faces), np.linspace(-30.0, 30.0, faces).tolist()
    aligned = model.preprocess.model_copy(update={"alignment": "eyes"})
    launcher = CudaFaceKernels(device, model.model_copy(update={"preprocess": aligned}), faces)
    launcher.describe(pointer, frame_hw, boxes, angles_deg=angles)
    rows = device.pinned((faces, *model.input_shape), np.float32, mapped=True)
    target = device.allocate(rows.nbytes)
    turned = timed(device, stream, lambda: launcher.preprocess(target.pointer, faces, stream), repeats)
    device.copy_to_host(rows, target, rows.nbytes, stream)
    stream.synchronize()
    _check_pixels(aligned, rows.array, frame, boxes, angles)
    spec = open_bundle(find_bundle(DEFAULT_DETECTOR)).manifest.detector
    detector, small = CudaDetectorKernel(device, spec), device.allocate(4 * int(np.prod(spec.input_shape)))
    detector.describe(pointer, frame_hw)
    shrunk = timed(device, stream, lambda: detector.preprocess(small.pointer, stream), repeats)
    read = frame.nbytes + small.nbytes
    return {
        f"cut {faces} turned faces, frame in device memory": turned,
        "make a frame small for the detector": {
            **shrunk, "bytes": read, "gb_per_s": read / shrunk["device_ms_p50"] / 1e6,
        },
    }  # fmt: skip


def timed(device: CudaDevice, stream: Stream, call: Callable[[], None], repeats: int) -> dict[str, float]:
    """Device time and host time of a call, of many, without the first tenth."""
    began, ended = device.event(timing=True), device.event(timing=True)
    on_device, on_host = [], []
    for _ in range(repeats):
        began.record(stream)
        start = time.perf_counter_ns()
        call()
        on_host.append((time.perf_counter_ns() - start) / 1e3)
        ended.record(stream)
        ended.synchronize()
        on_device.append(ended.elapsed_ms_since(began))
    warm = repeats // 10
    return {
        "device_ms_p50": statistics.median(on_device[warm:]),
        "device_ms_p99": float(np.percentile(on_device[warm:], 99)),
        "host_us_p50": statistics.median(on_host[warm:]),
    }


def boxes_in(frame_hw: tuple[int, int], side_px: int, faces: int) -> NDArray[np.float32]:
    """Boxes all over the frame, the last ones over its edges."""
    left = np.linspace(0, frame_hw[1] - side_px // 2, faces)
    top = np.linspace(0, frame_hw[0] - side_px, faces)
    return np.stack([left, top, left + side_px, top + side_px], axis=1).astype(np.float32)


def _check_pixels(
    spec: PreprocessSpec,
    got: NDArray[np.float32],
    frame: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    angles_deg: Sequence[float] = (),
) -> None:
    want, cropper = np.empty_like(got), FaceCropper(spec)
    for row, box, angle_deg in zip(want, boxes, angles_deg or [0.0] * len(boxes), strict=True):
        cropper.crop_into(row, frame, box, angle_deg)
    gap = float(np.abs(got - want).max())
    if not gap <= LEVEL / 255 / min(spec.std):
        raise EdgeFerError(f"The kernel's pixels differ from the CPU's by {gap:.3g}.")
