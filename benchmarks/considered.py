"""Considered for the loop and not taken: OpenVINO's preprocessing graph, and PyAV as the decoder (decision 0034).

    python benchmarks/considered.py [--clip FILE]

Processor time of the whole process, so that a busy machine disturbs little. Without ``--clip`` the benchmark's own 720p
film is made first (clips.py). Needs: pip install -e '.[dev,openvino]' av
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import openvino
from clips import make_clip
from numpy.typing import NDArray
from openvino import opset13
from openvino.preprocess import ColorFormat, PrePostProcessor, ResizeAlgorithm

from edge_fer.core.spec import PreprocessSpec
from edge_fer.runtime.preprocess import FaceCropper

HEIGHT, WIDTH = 720, 1280
CALLS, WARM, PASSES = 150, 10, 3
ONE_THREAD = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}


def call_us(work: Callable[[], object]) -> tuple[float, float]:
    """Processor time of a call in microseconds: smallest and median."""
    times = []
    for index in range(WARM + CALLS):
        began = time.process_time()
        work()
        if index >= WARM:
            times.append(1e6 * (time.process_time() - began))
    return min(times), statistics.median(times)


def reducer(channels: int, side: int) -> openvino.Model:
    """A network that costs next to nothing: the mean of its input."""
    pixels = opset13.parameter([1, channels, side, side], np.float32)
    return openvino.Model([opset13.reduce_mean(pixels, np.array([1, 2, 3]), False)], [pixels], "mean")


def preprocessing() -> list[str]:
    """The table of decision 0034, without its head."""
    core, frame = openvino.Core(), np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    lines = []
    for side, colour, interpolation in ((48, "gray", "area"), (224, "rgb", "linear")):
        channels = 1 if colour == "gray" else 3
        spec = PreprocessSpec.model_validate(
            {"size_hw": (side, side), "colour": colour, "mean": (0.5,) * channels, "std": (0.25,) * channels,
             "interpolation": interpolation}
        )  # fmt: skip
        cropper, row = FaceCropper(spec), np.empty((1, channels, side, side), np.float32)
        plain = core.compile_model(reducer(channels, side), "CPU", ONE_THREAD).create_infer_request()
        plain.set_input_tensor(openvino.Tensor(row, shared_memory=True))
        empty = call_us(plain.infer)
        graph = PrePostProcessor(reducer(channels, side))
        given = graph.input()
        given.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
        given.tensor().set_color_format(ColorFormat.BGR).set_shape([1, -1, -1, 3])
        steps = given.preprocess().convert_element_type(openvino.Type.f32)
        steps.convert_color(ColorFormat.GRAY if colour == "gray" else ColorFormat.RGB)
        steps.resize(ResizeAlgorithm.RESIZE_LINEAR).mean([127.5] * channels).scale([63.75] * channels)
        given.model().set_layout(openvino.Layout("NCHW"))
        request = core.compile_model(graph.build(), "CPU", ONE_THREAD).create_infer_request()
        for face in (120, 300):
            box = np.array([300, 200, 300 + face, 200 + face], np.float32)

            def by_graph(face: int = face, request: Any = request) -> None:
                crop = np.ascontiguousarray(frame[200 : 200 + face, 300 : 300 + face])[None]
                request.set_input_tensor(openvino.Tensor(crop, shared_memory=True))
                request.infer()

            ours = call_us(lambda box=box, row=row, cropper=cropper: cropper.crop_into(row[0], frame, box))  # type: ignore[misc]
            theirs = call_us(by_graph)
            lines.append(
                f"| {side}x{side} {colour} | {face} px | {ours[0]:.0f} / {ours[1]:.0f} | "
                f"{theirs[0] - empty[0]:.0f} / {theirs[1] - empty[1]:.0f} |"
            )
    return lines


def by_opencv(path: str, threads: int, into: NDArray[np.uint8]) -> int:
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads] if threads else [])
    count = 0
    while capture.read(into)[0]:
        count += 1
    capture.release()
    return count


def by_pyav(path: str, threads: int, into: NDArray[np.uint8], *, planes: bool = False) -> int:
    """``planes``: let OpenCV turn the decoder's planes into BGR."""
    count = 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE" if threads else "AUTO"
        if threads:
            stream.codec_context.thread_count = threads
        for frame in container.decode(stream):
            if planes:
                cv2.cvtColor(frame.to_ndarray(), cv2.COLOR_YUV2BGR_I420, dst=into)
            else:
                np.copyto(into, frame.to_ndarray(format="bgr24"))
            count += 1
    return count


def decoding(path: str) -> list[str]:
    """Milliseconds of processor time a frame, smallest of a few passes."""
    into, lines = np.empty((HEIGHT, WIDTH, 3), np.uint8), []
    ways: dict[str, Callable[[int], int]] = {
        "OpenCV": lambda threads: by_opencv(path, threads, into),
        "PyAV": lambda threads: by_pyav(path, threads, into),
        "PyAV, colours by OpenCV": lambda threads: by_pyav(path, threads, into, planes=True),
    }
    for name, read in ways.items():
        cells = []
        for threads in (0, 1):
            times = []
            for _ in range(PASSES):
                began = time.process_time()
                count = read(threads)
                times.append(1e3 * (time.process_time() - began) / count)
            cells.append(f"{min(times):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a 720p film")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        clip = arguments.clip or Path(folder) / "clip.mp4"
        if arguments.clip is None:
            make_clip(clip, 1)
        decoded = decoding(str(clip))
    head = ["| network's input | face | FaceCropper, us | in OpenVINO's graph, us |", "|---|--:|--:|--:|"]
    table = [
        *head,
        *preprocessing(),
        "",
        "| decoder | its own threads, ms | one thread, ms |",
        "|---|--:|--:|",
        *decoded,
    ]
    sys.stdout.write("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
