"""What of edge-fer's CUDA side works on this machine's GPU, proof by proof, and how fast.

    python benchmarks/gpu/prove.py --out benchmarks/results/NAME-OF-THE-GPU

Every proof runs in a process of its own under a time limit, so that one that crashes the driver costs only itself. Each
ends as ``passed``, ``failed`` or ``skipped`` with a sentence, and all of them stand in one file, prove.json, with the
device, the driver and the versions. On a machine without a GPU everything is skipped, which is what CI runs.

In this order: the contract of the device and of the kernels (under compute-sanitizer too, where it is installed);
kernel and copy times beside the bytes that must move; every engine that is installed, checked by the bundle's canary;
the whole loop on the GPU against the loop on the CPU.

Needs: pip install -e '.[dev]' and what is to be proved, such as '.[tensorrt]'
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fer import __version__
from edge_fer.core.errors import DeviceError, EdgeFerError, UsageError
from edge_fer.core.files import atomic_file

ROOT = Path(__file__).resolve().parents[2]
CHECKS = ROOT / "tests" / "cuda"
PACKAGES = (
    "cuda-bindings", "pycuda", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt_rtx_cu13", "onnxruntime",
    "onnxruntime-gpu", "torch", "numpy", "opencv-python-headless",
)  # fmt: skip
BACKENDS = ("onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8")
FRAME_HW, SIDE_PX = (720, 1280), 300
REPEATS, LEVEL = 300, 1.01
"""Largest difference of an 8-bit value between the kernel and the CPU."""
SAME_LABELS = 0.995
LIMIT_S = 540.0

Answer = dict[str, Any]


class Skipped(Exception):  # noqa: N818 (an outcome, not an error)
    """Why a proof cannot be run here, as a sentence."""


def contract(*, sanitizer: bool) -> Answer:
    """The promises of tests/cuda/check_*.py, on the real driver."""
    command = [sys.executable, "-m", "pytest", str(CHECKS), "-o", "python_files=check_*.py", "-p", "no:cacheprovider"]
    if sanitizer:
        tool = shutil.which("compute-sanitizer")
        if tool is None:
            raise Skipped("compute-sanitizer is not installed.")
        # The checks make calls fail on purpose (too much memory, foreign code): only what kernels do counts here.
        command = [tool, "--report-api-errors", "no", "--error-exitcode", "9", *command]
    _open().close()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    summary = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode:
        raise EdgeFerError(f"The checks failed: {summary[0]}\n{done.stdout[-4000:]}")
    if not any(" passed" in line for line in done.stdout.splitlines()[-8:]):
        raise EdgeFerError(f"No check ran: {summary[0]}")
    return {"summary": summary[0]}


def _open() -> Any:
    from edge_fer.cuda.open import open_device

    try:
        return open_device()
    except DeviceError as error:
        raise Skipped(str(error)) from None


def kernels() -> Answer:
    """Pixels against the CPU's, and times: the kernel beside the bytes it must move, copies, and what a call costs the
    host."""
    from edge_fer.core.bundle import find_bundle, open_bundle
    from edge_fer.cuda.face_kernels import CudaFaceKernels, bytes_moved
    from edge_fer.runtime.preprocess import FaceCropper

    model = open_bundle(find_bundle()).manifest.classifier
    spec = model.preprocess
    answer: Answer = {"model": model.name, "frame_hw": FRAME_HW, "side_px": SIDE_PX}
    with _open() as device:
        stream, began, ended = device.stream(), device.event(timing=True), device.event(timing=True)
        frame = device.pinned((*FRAME_HW, 3), np.uint8, mapped=True)
        frame.array[:] = np.random.default_rng(0).integers(0, 256, frame.array.shape, dtype=np.uint8)
        copy = device.allocate(frame.nbytes)
        device.copy_to_device(copy, frame, frame.nbytes, stream)

        def timed(call: Callable[[], None]) -> dict[str, float]:
            """Device time and host time of a call, medians of many, in milliseconds and microseconds."""
            on_device, on_host = [], []
            for _ in range(REPEATS):
                began.record(stream)
                start = time.perf_counter_ns()
                call()
                on_host.append((time.perf_counter_ns() - start) / 1e3)
                ended.record(stream)
                ended.synchronize()
                on_device.append(ended.elapsed_ms_since(began))
            warm = REPEATS // 10
            return {
                "device_ms_p50": statistics.median(on_device[warm:]),
                "device_ms_p99": float(np.percentile(on_device[warm:], 99)),
                "host_us_p50": statistics.median(on_host[warm:]),
            }

        for faces in (1, 4, 8):
            boxes = _boxes(faces)
            launcher = CudaFaceKernels(device, model, faces)
            rows = device.pinned((faces, *model.input_shape), np.float32, mapped=True)
            target = device.allocate(rows.nbytes)
            for place, pointer in (("device", copy.pointer), ("mapped", frame.device_pointer)):
                launcher.describe(pointer, FRAME_HW, boxes)
                found = timed(
                    lambda launcher=launcher, target=target, n=faces: launcher.preprocess(target.pointer, n, stream)
                )
                moved = bytes_moved(spec, np.full(faces, SIDE_PX, np.int64))
                answer[f"cut {faces} faces, frame in {place} memory"] = {
                    **found, "bytes": moved, "gb_per_s": moved / found["device_ms_p50"] / 1e6,
                }  # fmt: skip
                device.copy_to_host(rows, target, rows.nbytes, stream)
                stream.synchronize()
                _check_pixels(spec, rows.array, frame.array, boxes, FaceCropper(spec))
            if faces == 1 and device.adapter != "pycuda":
                device.begin_capture(stream)
                launcher.preprocess(target.pointer, 1, stream)
                graph = device.end_capture(stream)
                answer["the same as a graph, 1 face"] = timed(lambda graph=graph: graph.launch(stream))
        height, width = FRAME_HW
        for what, nbytes in (
            ("BGR frame", frame.nbytes),
            ("NV12 frame", height * width * 3 // 2),
            ("face's rows", SIDE_PX * width * 3),
        ):
            found = timed(lambda nbytes=nbytes: device.copy_to_device(copy, frame, nbytes, stream))
            answer[f"copy {what}"] = {**found, "bytes": nbytes, "gb_per_s": nbytes / found["device_ms_p50"] / 1e6}
    return answer


def _boxes(faces: int) -> NDArray[np.float32]:
    """Boxes all over the frame, the last ones over its edges."""
    left = np.linspace(0, FRAME_HW[1] - SIDE_PX // 2, faces)
    top = np.linspace(0, FRAME_HW[0] - SIDE_PX, faces)
    return np.stack([left, top, left + SIDE_PX, top + SIDE_PX], axis=1).astype(np.float32)


def _check_pixels(spec: Any, got: NDArray[Any], frame: NDArray[Any], boxes: NDArray[Any], cropper: Any) -> None:
    want = np.empty_like(got)
    for row, box in zip(want, boxes, strict=True):
        cropper.crop_into(row, frame, box)
    gap = float(np.abs(got - want).max())
    if not gap <= LEVEL / 255 / min(spec.std):
        raise EdgeFerError(f"The kernel's pixels differ from the CPU's by {gap:.3g}.")


def _possible(backend: str, precision: str) -> None:
    """Skip what this machine or the bundle does not offer. Whatever fails after this question has failed."""
    from edge_fer.backends.dialects import DIALECTS
    from edge_fer.backends.registry import backend_module, require
    from edge_fer.core.bundle import find_bundle, open_bundle

    _open().close()
    try:
        require(backend)
    except DeviceError as error:
        raise Skipped(str(error)) from None
    build = backend_module(backend, "build")
    if precision not in build.precisions():
        raise Skipped(f"{backend} is not offered in {precision} on this GPU.")
    try:
        open_bundle(find_bundle()).variant(build.onnx_form(precision), DIALECTS[backend])
    except UsageError as error:
        raise Skipped(str(error)) from None


def engine(backend: str, precision: str) -> Answer:
    """Build, check the canary, time one face; the backend must be what it says it is."""
    from edge_fer.backends.registry import open_engine
    from edge_fer.core.bundle import find_bundle, open_bundle

    _possible(backend, precision)
    began = time.perf_counter()
    opened = open_engine(open_bundle(find_bundle()), backend=backend, precision=precision)
    ready_s = time.perf_counter() - began
    with opened:
        slot, times = opened.slots[0], []
        for _ in range(REPEATS):
            start = time.perf_counter_ns()
            opened.submit(slot, 1)
            opened.wait(slot)
            times.append((time.perf_counter_ns() - start) / 1e6)
        found = opened.manifest
        return {
            "backend": found.backend, "version": found.backend_version, "device": found.device,
            "ready_s": ready_s, "p50_ms": statistics.median(times), "p99_ms": float(np.percentile(times, 99)),
        }  # fmt: skip


def loop(precision: str) -> Answer:
    """The demo through the GPU's loop and through the CPU's: the same labels, face by face.

    int8 is compared with the CPU's int8, so that what is found is the loop's doing and not the precision's.
    """
    _possible("tensorrt", precision)
    with tempfile.TemporaryDirectory(prefix="edge-fer-prove-") as name:
        folder = Path(name)
        gpu = _run(folder / "gpu.jsonl", "--device", "cuda", "--precision", precision)
        theirs_in = "int8" if precision == "int8" else "fp32"
        _run(folder / "cpu.jsonl", "--backend", "onnxruntime", "--precision", theirs_in)
        ours, theirs = (_labels(folder / f"{side}.jsonl") for side in ("gpu", "cpu"))
    if [len(frame) for frame in ours] != [len(frame) for frame in theirs]:
        raise EdgeFerError("The loops saw different frames, or different numbers of faces in them.")
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    if not pairs:
        raise EdgeFerError("Neither loop saw a face.")
    same = sum(a == b for a, b in pairs) / len(pairs)
    answer = {"frames": len(ours), "faces": len(pairs), "same_labels": same, "summary": gpu}
    if same < SAME_LABELS:
        raise EdgeFerError(f"Only {same:.1%} of the faces have the labels that the CPU gives: {answer}")
    return answer


def _run(jsonl: Path, *options: str) -> str:
    command = [sys.executable, "-m", "edge_fer", "run", "--demo", "--no-show", "--smooth", "0", "--jsonl", str(jsonl)]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    if done.returncode:
        raise EdgeFerError(f"edge-fer run failed with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _labels(jsonl: Path) -> list[list[str]]:
    """Labels of every frame's faces."""
    lines = (json.loads(line) for line in jsonl.read_text(encoding="utf-8").splitlines())
    return [[face["label"] for face in line["faces"]] for line in lines if "faces" in line]


PROOFS: dict[str, Callable[[], Answer]] = {
    "device and kernels keep their contract": lambda: contract(sanitizer=False),
    "the same under compute-sanitizer": lambda: contract(sanitizer=True),
    "kernel and copy times": kernels,
    **{
        f"engine {backend} {precision}": lambda backend=backend, precision=precision: engine(backend, precision)  # type: ignore[misc]
        for backend in BACKENDS
        for precision in PRECISIONS
    },
    **{f"loop on the GPU, {precision}": lambda precision=precision: loop(precision) for precision in PRECISIONS},  # type: ignore[misc]
}


def one(name: str) -> Answer:
    """Run a proof in this process."""
    try:
        return {"outcome": "passed", **PROOFS[name]()}
    except Skipped as reason:
        return {"outcome": "skipped", "why": str(reason)}
    except EdgeFerError as error:
        return {"outcome": "failed", "why": str(error)}


def apart(name: str) -> Answer:
    """Run a proof in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--only", name]
    # A session of its own, so that pytest, compute-sanitizer and `edge-fer run` under it end with it.
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=os.name == "posix"
    )
    try:
        said, complaint = child.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.communicate()
        return {"outcome": "failed", "why": f"no answer within {LIMIT_S:.0f} s"}
    lines = said.strip().splitlines()
    if child.returncode or not lines:
        return {"outcome": "failed", "why": f"crashed with status {child.returncode}: {complaint[-2000:]}"}
    answer: Answer = json.loads(lines[-1])
    return answer


def device() -> Answer:
    from edge_fer.cuda.open import describe_device

    try:
        return asdict(describe_device())
    except DeviceError as error:
        return {"none": str(error)}


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for prove.json")
    parser.add_argument("--only", choices=sorted(PROOFS), metavar="PROOF", help="one proof, answered as a line of JSON")
    options = parser.parse_args()
    if options.only:
        sys.stdout.write(json.dumps(one(options.only)) + "\n")
        return
    found: Answer = {
        "edge_fer": __version__,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "device": device(),
        "packages": versions(),
        "proofs": {},
    }
    for name in PROOFS:
        answer = found["proofs"][name] = apart(name)
        sys.stdout.write(f"{answer['outcome']:8} {name}{': ' + answer['why'] if 'why' in answer else ''}\n")
        sys.stdout.flush()
        if options.out is not None:
            # After each proof: what is proved stays, whatever the next one does to the machine.
            with atomic_file(options.out / "prove.json") as temporary:
                temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if any(answer["outcome"] == "failed" for answer in found["proofs"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
