"""What of edge-fer's CUDA side works on this machine's GPU, proof by proof, and how fast.

    python benchmarks/gpu/prove.py --out benchmarks/results/NAME-OF-THE-GPU

Every proof runs in a process of its own under a time limit, so that one that crashes the driver costs only itself. Each
ends as ``passed``, ``failed``, ``missed`` (it works, but a bar is not kept) or ``skipped`` with a sentence, and all of
them stand in one file, prove.json, with the device, the driver, the versions and every bar. On a machine without a GPU
everything is skipped, which is what CI runs.

In this order: the contract of the device and of the kernels (under compute-sanitizer too, where it is installed);
kernel and copy times beside the bytes that must move; every engine that is installed, checked by the bundle's canary;
a frame's way over the GPU, with a picture of what runs side by side (timeline-PRECISION.png); the whole loop on the GPU
against the loop on the CPU.

The bars: a frame is queued in 50 us of the host's time; the kernel takes twice the time that its bytes need at the
memory's peak, and an empty launch; a frame takes 1.15 times as long as its inference alone, and its copy; 99.5 % of the
faces have the labels that the CPU gives.

Needs: pip install -e '.[dev]' and what is to be proved, such as '.[tensorrt]'
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
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
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

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
REPEATS = 300
LIMIT_S = 540.0
CLIP_FRAMES = 200
TOOLS = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/opt/cuda/bin")
"""Where CUDA's toolkit lies when it is not on the path."""

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for frame_path, also when a test loads this file

Answer = dict[str, Any]


class Skipped(Exception):  # noqa: N818 (an outcome, not an error)
    """Why a proof cannot be run here, as a sentence."""


def contract(*, sanitizer: bool) -> Answer:
    """The promises of tests/cuda/check_*.py, on the real driver."""
    command = [sys.executable, "-m", "pytest", str(CHECKS), "-o", "python_files=check_*.py", "-p", "no:cacheprovider"]
    command += ["-n", "0"]  # one device, one process
    if sanitizer:
        tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(TOOLS))
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
    from kernel_times import measure_kernels

    with _open() as device:
        return measure_kernels(device, FRAME_HW, SIDE_PX, REPEATS)


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


def frames(precision: str, out: Path | None) -> Answer:
    """A frame's way over the GPU with TensorRT: host's and device's times, bars, and what runs side by side."""
    from frame_path import measure_frames, measure_overlap

    from edge_fer.backends.face_detector import open_face_detector
    from edge_fer.backends.registry import open_engine
    from edge_fer.cli.run import DEMO
    from edge_fer.core.bundle import find_bundle, open_bundle
    from edge_fer.core.engine import DeviceEngine
    from edge_fer.cuda.open import DEFAULT_ADAPTER
    from edge_fer.runtime.cuda_loop import open_cuda_loop

    _possible("tensorrt", precision)
    picture = None
    if out is not None and importlib.util.find_spec("matplotlib") is not None:
        picture = out / f"timeline-{precision}.png"
    gpu = open_cuda_loop(DEFAULT_ADAPTER, 0)
    try:
        detector = open_face_detector("edge-fer-face", min_face_px=80)
        with open_engine(open_bundle(find_bundle()), backend="tensorrt", precision=precision) as engine:
            assert isinstance(engine, DeviceEngine)
            answer = measure_frames(gpu, engine, FRAME_HW, SIDE_PX, REPEATS)
            answer["overlap"] = measure_overlap(gpu, engine, DEMO, detector, CLIP_FRAMES, picture)
    finally:
        gpu.close()
    if out is not None and picture is None:
        answer["overlap"]["picture"] = "matplotlib is not installed"
    return answer


def loop(precision: str) -> Answer:
    """The demo through the GPU's loop and through the CPU's: the same labels, face by face.

    int8 is compared with the CPU's int8, so that what is found is the loop's doing and not the precision's.
    """
    from frame_path import SAME_LABELS, bar

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
    return {
        "frames": len(ours), "faces": len(pairs), "same_labels": same, "summary": gpu,
        "bars": {"labels as on the CPU": bar(same, SAME_LABELS, "of the faces", at_least=True)},
    }  # fmt: skip


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


def proofs(out: Path | None) -> dict[str, Callable[[], Answer]]:
    """By name, in their order; ``out``: the folder for pictures."""
    return {
        "device and kernels keep their contract": partial(contract, sanitizer=False),
        "the same under compute-sanitizer": partial(contract, sanitizer=True),
        "kernel and copy times": kernels,
        **{
            f"engine {backend} {precision}": partial(engine, backend, precision)
            for backend, precision in itertools.product(BACKENDS, PRECISIONS)
        },
        **{f"a frame's way, {precision}": partial(frames, precision, out) for precision in PRECISIONS},
        **{f"loop on the GPU, {precision}": partial(loop, precision) for precision in PRECISIONS},
    }


def one(name: str, out: Path | None) -> Answer:
    """Run a proof in this process."""
    try:
        return judged(proofs(out)[name]())
    except Skipped as reason:
        return {"outcome": "skipped", "why": str(reason)}
    except EdgeFerError as error:
        return {"outcome": "failed", "why": str(error)}


def judged(answer: Answer) -> Answer:
    """``passed``, or ``missed`` with the bars that are not kept."""
    missed = [
        f"{name}: {kept['found']:.4g} {kept['unit']}, promised {kept['limit']:.4g}"
        for name, kept in answer.get("bars", {}).items()
        if not kept["passed"]
    ]
    return {"outcome": "missed", "why": "; ".join(missed), **answer} if missed else {"outcome": "passed", **answer}


def apart(name: str, out: Path | None) -> Answer:
    """Run a proof in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--only", name]
    command += [] if out is None else ["--out", str(out)]
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
    parser.add_argument("--out", type=Path, help="folder for prove.json and pictures")
    parser.add_argument(
        "--only", choices=sorted(proofs(None)), metavar="PROOF", help="one proof, answered as a line of JSON"
    )
    options = parser.parse_args()
    if options.only:
        sys.stdout.write(json.dumps(one(options.only, options.out)) + "\n")
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
    for name in proofs(None):
        answer = found["proofs"][name] = apart(name, options.out)
        sys.stdout.write(f"{answer['outcome']:8} {name}{': ' + answer['why'] if 'why' in answer else ''}\n")
        sys.stdout.flush()
        if options.out is not None:
            # After each proof: what is proved stays, whatever the next one does to the machine.
            with atomic_file(options.out / "prove.json") as temporary:
                temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if any(answer["outcome"] in ("failed", "missed") for answer in found["proofs"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
