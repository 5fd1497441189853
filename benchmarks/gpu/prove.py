"""What of edge-fer's CUDA side works on this machine's GPU, proof by proof, and how fast.

    python benchmarks/gpu/prove.py --submit [--bundle BUNDLE]

Every proof runs in a process of its own under a time limit, so that one that crashes the driver costs only itself. Each
ends as ``passed``, ``failed``, ``missed`` (it works, but a bar is not kept) or ``skipped`` with a sentence, and all of
them stand in one file, prove.json, with the device, the driver, the versions and every bar. On a machine without a GPU
everything is skipped, which is what CI runs.

In this order: the contract of the device and of the kernels (under compute-sanitizer too, where it is installed);
kernel and copy times beside the bytes that must move; every engine that is installed, checked by the bundle's canary;
a frame's way over the GPU, with a picture of what runs side by side (timeline-ENGINE-PRECISION.png); the whole loop on
the GPU against the loop on the CPU. Engines are TensorRT's, ONNX Runtime's, and torch's where that is all there is.

The bars: a frame is queued in 50 us of the host's time; the kernel takes twice the time that its bytes need at the
memory's peak, and an empty launch; a frame takes 1.15 times as long as its inference alone, and its copy; 99.5 % of the
faces have the labels that the CPU gives.

README.md beside this file says what to install and what to post.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import re
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
from edge_fer.core.bundle import Bundle, find_bundle, open_bundle
from edge_fer.core.errors import DeviceError, EdgeFerError, UsageError
from edge_fer.core.files import atomic_file

ROOT = Path(__file__).resolve().parents[2]
CHECKS, RESULTS = ROOT / "tests" / "cuda", ROOT / "benchmarks" / "results"
PACKAGES = (
    "cuda-bindings", "pycuda", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt_rtx_cu13", "onnxruntime",
    "onnxruntime-gpu", "torch", "numpy", "opencv-python-headless",
)  # fmt: skip
BACKENDS = ("onnxruntime-cuda", "onnxruntime-cuda-graph", "onnxruntime-tensorrt", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8")
TORCH = "torch"
"""No backend of ours: the engine of torch_engine.py, for machines that have nothing else."""
ON_GPU = (*itertools.product(("tensorrt",), PRECISIONS), ("onnxruntime-cuda", "fp32"), ("onnxruntime-cuda", "fp16"))
"""Backends and precisions that a loop on the GPU may have as its engine."""
DETECTOR, DETECTED_BY = "edge-fer-face", {"backend": "onnxruntime", "precision": "int8"}
"""On the CPU; named, because to find the fastest one would take longer than a proof."""
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


def _possible(backend: str, precision: str, bundle: str | None) -> Bundle:
    """The bundle, or skip what it or this machine does not offer. Whatever fails after this question has failed."""
    from edge_fer.backends.dialects import DIALECTS
    from edge_fer.backends.registry import backend_module, require

    _open().close()
    try:
        require(backend)
    except DeviceError as error:
        raise Skipped(str(error)) from None
    build = backend_module(backend, "build")
    if precision not in build.precisions():
        raise Skipped(f"{backend} is not offered in {precision} on this GPU.")
    opened = open_bundle(find_bundle(bundle))
    try:
        opened.variant(build.onnx_form(precision), DIALECTS[backend])
    except UsageError as error:
        raise Skipped(str(error)) from None
    return opened


def engine(backend: str, precision: str, bundle: str | None) -> Answer:
    """Build, check the canary, time one face; the backend must be what it says it is."""
    from edge_fer.backends.registry import open_engine

    found_bundle = _possible(backend, precision, bundle)
    began = time.perf_counter()
    opened = open_engine(found_bundle, backend=backend, precision=precision)
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


def frames(backend: str, precision: str, bundle: str | None, out: Path | None) -> Answer:
    """A frame's way over the GPU: host's and device's times, bars, and what runs side by side."""
    from frame_path import measure_frames, measure_overlap

    from edge_fer.backends.face_detector import open_face_detector
    from edge_fer.backends.registry import open_engine
    from edge_fer.cli.run import DEMO
    from edge_fer.core.engine import DeviceEngine
    from edge_fer.cuda.open import DEFAULT_ADAPTER
    from edge_fer.runtime.cuda_loop import open_cuda_loop

    network = _torch_network() if backend == TORCH else None
    # Torch runs the shipped checkpoint, so its engine keeps the shipped bundle's contract.
    tried = open_bundle(find_bundle()) if backend == TORCH else _possible(backend, precision, bundle)
    picture = None
    if out is not None and importlib.util.find_spec("matplotlib") is not None:
        picture = out / f"timeline-{backend}-{precision}.png"
    gpu = open_cuda_loop(DEFAULT_ADAPTER, 0)
    try:
        detector = open_face_detector(DETECTOR, min_face_px=80, **DETECTED_BY)
        opened = (
            _torch_engine(tried, network)
            if network is not None
            else open_engine(tried, backend=backend, precision=precision)
        )
        with opened as engine:
            assert isinstance(engine, DeviceEngine)
            answer = measure_frames(gpu, engine, FRAME_HW, SIDE_PX, REPEATS)
            answer["overlap"] = measure_overlap(gpu, engine, DEMO, detector, CLIP_FRAMES, picture)
    finally:
        gpu.close()
    if out is not None and picture is None:
        answer["overlap"]["picture"] = "matplotlib is not installed"
    return answer


def _torch_network() -> Any:
    """The checkpoint's network on the GPU, by torch.

    Raises:
        Skipped: there is no torch, or it sees no GPU.
    """
    _open().close()
    try:
        import torch
    except ImportError:
        raise Skipped("torch is not installed.") from None
    if not torch.cuda.is_available():
        raise Skipped(f"torch {torch.__version__} sees no GPU.")
    from torch_engine import load_network

    return load_network()


def _torch_engine(bundle: Any, network: Any) -> Any:
    from torch_engine import TorchEngine

    from edge_fer.cuda.open import open_device

    return TorchEngine(open_device(), bundle, network)


def loop(backend: str, precision: str, bundle: str | None) -> Answer:
    """The demo through the GPU's loop and through the CPU's, by the command: the same labels, face by face.

    int8 is compared with the CPU's int8, so that what is found is the loop's doing and not the precision's.
    """
    from frame_path import compare_labels

    model = str(_possible(backend, precision, bundle).path)
    with tempfile.TemporaryDirectory(prefix="edge-fer-prove-") as name:
        folder = Path(name)
        on_gpu = ("--device", "cuda", "--backend", backend, "--precision", precision)
        gpu = _run(folder / "gpu.jsonl", "--engine", model, *on_gpu)
        theirs_in = "int8" if precision == "int8" else "fp32"
        _run(folder / "cpu.jsonl", "--engine", model, "--backend", "onnxruntime", "--precision", theirs_in)
        return {"summary": gpu, **compare_labels(*(_labels(folder / f"{side}.jsonl") for side in ("gpu", "cpu")))}


def loop_by_torch() -> Answer:
    """The same with torch as the engine, which no command offers."""
    from frame_path import compare_labels, labels_of_clip

    from edge_fer.backends.face_detector import open_face_detector
    from edge_fer.backends.registry import open_engine
    from edge_fer.cli.run import DEMO
    from edge_fer.cuda.open import DEFAULT_ADAPTER
    from edge_fer.runtime.cuda_loop import open_cuda_loop

    network, bundle = _torch_network(), open_bundle(find_bundle())
    found = []
    for on_gpu in (True, False):
        detector = open_face_detector(DETECTOR, min_face_px=80, **DETECTED_BY)
        if on_gpu:
            gpu = open_cuda_loop(DEFAULT_ADAPTER, 0)
            try:
                with _torch_engine(bundle, network) as engine:
                    found.append(labels_of_clip(gpu, engine, DEMO, detector))
            finally:
                gpu.close()
        else:
            with open_engine(bundle, backend="onnxruntime", precision="fp32") as engine:
                found.append(labels_of_clip(None, engine, DEMO, detector))
    return compare_labels(*found)


def _run(jsonl: Path, *options: str) -> str:
    command = [sys.executable, "-m", "edge_fer", "run", "--demo", "--no-show", "--smooth", "0", "--jsonl", str(jsonl)]
    command += ["--detect-every", "1"]  # or where a face is followed to hangs on how fast each of them is
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    if done.returncode:
        raise EdgeFerError(f"edge-fer run failed with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _labels(jsonl: Path) -> list[list[str]]:
    """Labels of every frame's faces."""
    lines = (json.loads(line) for line in jsonl.read_text(encoding="utf-8").splitlines())
    return [[face["label"] for face in line["faces"]] for line in lines if "faces" in line]


def proofs(bundle: str | None, out: Path | None) -> dict[str, Callable[[], Answer]]:
    """By name, in their order; ``bundle``: instead of the shipped one; ``out``: the folder for pictures."""
    return {
        "device and kernels keep their contract": partial(contract, sanitizer=False),
        "the same under compute-sanitizer": partial(contract, sanitizer=True),
        "kernel and copy times": kernels,
        **{
            f"engine {backend} {precision}": partial(engine, backend, precision, bundle)
            for backend, precision in itertools.product(BACKENDS, PRECISIONS)
        },
        **{
            f"a frame's way, {backend} {precision}": partial(frames, backend, precision, bundle, out)
            for backend, precision in (*ON_GPU, (TORCH, "fp32"))
        },
        **{
            f"loop on the GPU, {backend} {precision}": partial(loop, backend, precision, bundle)
            for backend, precision in ON_GPU
        },
        f"loop on the GPU, {TORCH} fp32": loop_by_torch,
    }


def one(name: str, bundle: str | None, out: Path | None) -> Answer:
    """Run a proof in this process."""
    try:
        return judged(proofs(bundle, out)[name]())
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


def apart(name: str, bundle: str | None, out: Path | None, limit_s: float) -> Answer:
    """Run a proof in a process of its own, for so long at most."""
    command = [sys.executable, str(Path(__file__).resolve()), "--only", name]
    command += [] if bundle is None else ["--bundle", bundle]
    command += [] if out is None else ["--out", str(out)]
    # A session of its own, so that pytest, compute-sanitizer and `edge-fer run` under it end with it.
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=os.name == "posix"
    )
    try:
        said, complaint = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.communicate()
        return {"outcome": "failed", "why": f"no answer within {limit_s:.0f} s"}
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


def folder_name(gpu: str) -> str:
    """``NVIDIA GeForce MX250`` -> ``geforce-mx250``."""
    return "-".join(re.findall("[a-z0-9]+", gpu.lower().replace("nvidia", ""))) or "gpu"


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
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, help="folder for prove.json and pictures")
    where.add_argument(
        "--submit", action="store_true", help="the same in benchmarks/results/, in a folder named after the GPU"
    )
    parser.add_argument(
        "--only", choices=sorted(proofs(None, None)), metavar="PROOF", help="one proof, answered as a line of JSON"
    )
    parser.add_argument("--bundle", help="instead of the shipped one, such as one that has an fp16 form too")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="for each proof; 540")
    options = parser.parse_args()
    try:
        open_bundle(find_bundle(options.bundle))
    except EdgeFerError as error:
        parser.exit(error.exit_code, f"prove.py: {error}\n")
    if options.only:
        sys.stdout.write(json.dumps(one(options.only, options.bundle, options.out)) + "\n")
        return
    gpu = device()
    if options.submit:
        if "name" not in gpu:
            parser.exit(4, f"prove.py: nothing can be submitted. {gpu['none']}\n")
        options.out = RESULTS / folder_name(gpu["name"])
    found: Answer = {
        "edge_fer": __version__,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "device": gpu,
        "packages": versions(),
        "proofs": {},
    }
    for name in proofs(options.bundle, None):
        answer = found["proofs"][name] = apart(name, options.bundle, options.out, options.limit)
        sys.stdout.write(f"{answer['outcome']:8} {name}{': ' + answer['why'] if 'why' in answer else ''}\n")
        sys.stdout.flush()
        if options.out is not None:
            # After each proof: what is proved stays, whatever the next one does to the machine.
            with atomic_file(options.out / "prove.json") as temporary:
                temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.submit:
        sys.stdout.write(f"Please post the folder {options.out.relative_to(ROOT).as_posix()} as a pull request.\n")
    if any(answer["outcome"] in ("failed", "missed") for answer in found["proofs"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
