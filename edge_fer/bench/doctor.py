"""What this machine is, what each precision is worth on it, and what to install next."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

from edge_fer import __version__
from edge_fer.backends.tensorrt.library import MODULES
from edge_fer.bench.device import Machine, describe_machine
from edge_fer.bench.gpu import Architecture, Gpu, GpuSearch, Grade, KnownGpu, find_gpus, knowledge
from edge_fer.core.bundle import find_bundle, open_bundle
from edge_fer.core.errors import EdgeFerError
from edge_fer.core.spec import Frozen

PROBE_TIMEOUT_S = 120

LIBRARIES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"),
    "openvino": ("openvino",),
    "tensorrt": tuple(name for names in MODULES.values() for name in names),
    "torch": ("torch",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
}
"""Libraries that are looked for, and the distributions that may bring each."""

PACKAGES = (
    "numpy",
    "onnx",
    "safetensors",
    "matplotlib",
    "nncf",
    "cuda-bindings",
    "pycuda",
)
"""Packages whose version helps to understand a report."""

NOT_PROBED = frozenset({"torch"})
"""Libraries that no model is run with: looked for, but not loaded, which would take seconds."""

USED = {"onnxruntime": "CPUExecutionProvider", "openvino": "CPU"}
"""The provider or device that our backend of that name asks for, whatever else the library offers."""

NO_CUDA = "nothing that is installed here runs on it; the last section has the lines that change that"

_INT8_DOT = ("AMX-INT8", "AVX512-VNNI", "AVX-VNNI", "NEON-I8MM", "NEON-DOTPROD")
_BF16 = ("AMX-BF16", "AVX512-BF16", "NEON-BF16")
_FP16 = ("AMX-FP16", "AVX512-FP16", "NEON-FP16")


class OnGpu(Frozen):
    """A backend of ours that would run on the GPU here, and what it would compute in."""

    name: str
    device: str
    precisions: tuple[str, ...]


class Library(Frozen):
    """A library that computes.

    Attributes:
        distributions: ``name version`` of each installed package that brings it; empty when there is none.
        listed: providers and devices that it says it has.
        devices: those of them that ran a small network just now.
        used: the one that our backend of that name asks for, or ``None`` where there is none on the processor.
        problems: what is listed but does not work, as sentences.
        precisions: what our backend of that name would run on the processor; empty when we have no such backend.
        gpu: our backends that would run on the GPU with it.
    """

    name: str
    distributions: tuple[str, ...]
    listed: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    used: str | None = None
    problems: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    gpu: tuple[OnGpu, ...] = ()


class Worth(Frozen):
    """What a precision is worth on a device; ``backends`` are ours that run it there now."""

    device: str
    precision: str
    grade: Grade
    reason: str
    backends: tuple[str, ...] = ()


class Timing(Frozen):
    """Warm latency of one face with the shipped model, or why there is none."""

    backend: str
    precision: str
    median_us: float | None
    error: str | None


class Advice(Frozen):
    """A next step; ``command`` may be empty."""

    why: str
    command: str = ""


class GpuReport(Frozen):
    """A GPU with what the table knows of it."""

    gpu: Gpu
    architecture: Architecture | None
    known: KnownGpu | None


class DoctorReport(Frozen):
    """What ``edge-fer doctor --json`` prints; ``gpu_use`` says what this version does with the GPUs."""

    kind: Literal["edge-fer-doctor"] = "edge-fer-doctor"
    format: Literal[1] = 1
    edge_fer_version: str
    machine: Machine
    gpus: tuple[GpuReport, ...]
    gpu_finding: str
    gpu_use: str
    libraries: tuple[Library, ...]
    packages: dict[str, str]
    shipped_model: str
    engine_cache: str | None
    worth: tuple[Worth, ...]
    measured: tuple[Timing, ...]
    advice: tuple[Advice, ...]
    sources: dict[str, str]


def examine(*, measure: bool = False, threads: int = 1) -> DoctorReport:
    """Look at everything. Never raises for what is missing or broken on the machine: that is what it reports.

    Args:
        measure: time the shipped model in every backend and precision that runs here, in processes of their own.
        threads: for those timings.
    """
    machine, search, libraries = describe_machine(), find_gpus(), probe_libraries()
    gpus = tuple(
        GpuReport(
            gpu=gpu,
            architecture=knowledge().architecture(gpu.capability) if gpu.capability else None,
            known=knowledge().device(gpu.name),
        )
        for gpu in search.gpus
    )
    shipped, measured = _shipped(measure, threads)
    return DoctorReport(
        edge_fer_version=__version__,
        machine=machine,
        gpus=gpus,
        gpu_finding=search.finding,
        gpu_use=_gpu_use(libraries) if gpus else "",
        libraries=libraries,
        packages={name: version for name in PACKAGES if (version := _version(name)) is not None},
        shipped_model=shipped,
        engine_cache=_engine_cache(),
        worth=(*cpu_worth(machine, libraries), *(w for gpu in gpus for w in gpu_worth(gpu, libraries))),
        measured=measured,
        advice=tuple(advise(machine, gpus, search, libraries)),
        sources=knowledge().sources if gpus else {},
    )


def probe_libraries(names: Sequence[str] = tuple(LIBRARIES)) -> tuple[Library, ...]:
    """Load every installed library in a process of its own, all at once."""
    installed = {name: _distributions(LIBRARIES[name]) for name in names}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "edge_fer.bench.backend_probe", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for name, found in installed.items()
        if found and name not in NOT_PROBED
    }
    return tuple(_library(name, installed[name], processes.get(name)) for name in names)


def _library(name: str, distributions: tuple[str, ...], process: subprocess.Popen[str] | None) -> Library:
    if process is None:
        return Library(name=name, distributions=distributions, problems=_not_importable(name, distributions))
    try:
        output, complaints = process.communicate(timeout=PROBE_TIMEOUT_S)
        answer = json.loads(output)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Library(name=name, distributions=distributions, problems=(f"no answer within {PROBE_TIMEOUT_S} s",))
    except json.JSONDecodeError:
        last = [line.strip() for line in complaints.splitlines() if line.strip()][-1:]
        died = f"crashes when loaded (exit status {process.returncode})"
        return Library(name=name, distributions=distributions, problems=(": ".join([died, *last]),))
    if "error" in answer:
        return Library(name=name, distributions=distributions, problems=(answer["error"],))
    return Library(
        name=name,
        distributions=distributions,
        listed=tuple(answer.get("listed", ())),
        devices=tuple(answer["devices"]),
        used=USED.get(name),
        problems=tuple(answer["problems"]),
        precisions=tuple(answer["precisions"]),
        gpu=tuple(OnGpu.model_validate(one) for one in answer.get("gpu", ())),
    )


def _gpu_use(libraries: Sequence[Library]) -> str:
    """What would run on a GPU here, in words."""
    running = [f"{one.name} ({', '.join(one.precisions)})" for library in libraries for one in library.gpu]
    return f"edge-fer runs on it with --backend {', '.join(running)}" if running else NO_CUDA


def _not_importable(name: str, distributions: tuple[str, ...]) -> tuple[str, ...]:
    """The problem of a package whose metadata is there and whose code is not: a broken or half-removed install."""
    if not distributions or find_spec(name) is not None:
        return ()
    return (f"{', '.join(distributions)} is installed, but there is no module {name}",)


def cpu_worth(machine: Machine, libraries: Sequence[Library]) -> list[Worth]:
    """What each precision is worth on this processor, from its instruction sets."""
    isa = set(machine.isa)
    unsure = "" if machine.isa_complete else " (this system does not tell all instruction sets)"

    def has(candidates: tuple[str, ...]) -> str:
        return ", ".join(name for name in candidates if name in isa)

    def worth(precision: str, grade: Grade, reason: str) -> Worth:
        backends = tuple(library.name for library in libraries if precision in library.precisions)
        return Worth(device="CPU", precision=precision, grade=grade, reason=reason, backends=backends)

    missing: Grade = "pointless" if machine.isa_complete else "unknown"
    rows = [worth("fp32", "works", "the reference that every other precision is checked against")]
    if found := has(_BF16):
        rows.append(
            worth("bf16", "works", f"{found}: at least twice the arithmetic of fp32, same range, 8 bits of mantissa")
        )
    else:
        rows.append(worth("bf16", missing, f"no bf16 instructions: it would be computed in fp32{unsure}"))
    if found := has(_FP16):
        rows.append(
            worth("fp16", "works", f"{found}: at least twice the arithmetic of fp32; large activations can overflow")
        )
    else:
        rows.append(worth("fp16", missing, f"no fp16 arithmetic: every layer would be cast to fp32 and back{unsure}"))
    if found := has(_INT8_DOT):
        rows.append(worth("int8", "best", f"{found}: four products summed in 32 bits by one instruction"))
    elif "AVX2" in isa:
        rows.append(
            worth(
                "int8",
                "works" if machine.isa_complete else "unknown",
                "no VNNI: products go through 16-bit sums (VPMADDUBSW), which gain less. Networks that edge-fer "
                f"compiled fit them; one quantised elsewhere can saturate{unsure}",
            )
        )
    else:
        rows.append(worth("int8", missing, f"no instructions that make it faster than fp32{unsure}"))
    return rows


def gpu_worth(report: GpuReport, libraries: Sequence[Library] = ()) -> list[Worth]:
    """What each precision is worth on a GPU, from the table, and which backends of ours would run it there."""
    running = [one for library in libraries for one in library.gpu if one.device.startswith(f"{report.gpu.name} [")]
    if report.architecture is None:
        capability = report.gpu.capability or "unknown"
        reason = f"compute capability {capability} is not in the table of this version"
        return [Worth(device=report.gpu.name, precision="any", grade="unknown", reason=reason)]
    return [
        Worth(
            device=report.gpu.name,
            precision=name,
            grade=fact.grade,
            reason=fact.reason,
            backends=tuple(one.name for one in running if name in one.precisions),
        )
        for name, fact in report.architecture.precisions.items()
    ]


def advise(
    machine: Machine, gpus: Sequence[GpuReport], search: GpuSearch, libraries: Sequence[Library]
) -> list[Advice]:
    """What to do next, most useful first; empty when nothing is missing."""
    by_name = {library.name: library for library in libraries}
    steps = []
    for name, keep in (("onnxruntime", "onnxruntime"), ("opencv", "'opencv-python-headless<5'")):
        library = by_name.get(name)
        if library is not None and len(library.distributions) > 1:
            names = [distribution.split()[0] for distribution in library.distributions]
            why = f"{' and '.join(library.distributions)} overwrite each other's files: keep one"
            steps.append(Advice(why=why, command=f"pip uninstall -y {' '.join(names)} && pip install {keep}"))
        elif library is not None and not library.distributions:
            steps.append(
                Advice(why=f"{name} belongs to the base of edge-fer and is missing", command=f"pip install {keep}")
            )
    steps += [Advice(why=f"{library.name}: {problem}") for library in libraries for problem in library.problems]
    if not any(library.precisions for library in libraries):
        steps.append(Advice(why="no inference backend works here", command="pip install --force-reinstall edge-fer"))
    if (openvino := by_name.get("openvino")) is not None and not openvino.distributions:
        why = (
            "OpenVINO adds "
            + ("bf16 and " if set(machine.isa) & set(_BF16) else "")
            + "a second int8 engine to choose from"
        )
        steps.append(Advice(why=why, command="pip install 'edge-fer[openvino]'"))
    steps += [step for report in gpus for step in _advise_gpu(report, machine, libraries)]
    if search.finding.startswith("nvidia-smi fails"):
        steps.append(Advice(why=f"the NVIDIA driver does not work: {search.finding}; reinstall it, or reboot"))
    if (torch := by_name.get("torch")) is not None and not torch.distributions:
        steps.append(
            Advice(why="compiling your own checkpoints needs PyTorch", command="pip install 'edge-fer[compile]'")
        )
    if _version("matplotlib") is None:
        steps.append(Advice(why="drawing reports needs matplotlib", command="pip install 'edge-fer[report]'"))
    return steps


def _advise_gpu(report: GpuReport, machine: Machine, libraries: Sequence[Library]) -> list[Advice]:
    """Lines that fit the GPU, this Python and this driver; a line that does not fit says what it would need.

    Of several for the same backend the first that fits is shown; none once a backend of ours runs there.
    """
    if report.architecture is None:
        return []
    if any(one.device.startswith(f"{report.gpu.name} [") for library in libraries for one in library.gpu):
        return []
    python = ".".join(machine.python.split()[-1].split(".")[:2])
    system = f"{platform.system()} {machine.architecture}"
    judged = [(line, line.misfits(python, system, report.gpu.driver)) for line in report.architecture.install]
    steps: list[Advice] = []
    served: set[str] = set()
    fits = {line.backend for line, misfits in judged if not misfits}
    for line, misfits in judged:
        if line.backend and (line.backend in served or (misfits and line.backend in fits)):
            continue
        if not misfits:
            served.add(line.backend)
        needs = f" ({'; '.join(misfits)})" if misfits else ""
        used = f", for --backend {line.backend}" if line.backend else ""
        why = f"for the {report.gpu.name}, in an environment of its own: {line.what}{used}{needs}"
        steps.append(Advice(why=why, command=line.command))
    return steps


def _shipped(measure: bool, threads: int) -> tuple[str, tuple[Timing, ...]]:
    """(state of the shipped bundle in words, its timings here)."""
    try:
        bundle = open_bundle(find_bundle())
        forms = ", ".join(sorted({variant.precision for variant in bundle.manifest.variants}))
        words = f"{bundle.manifest.model.name} is whole ({forms})"
        if not measure:
            return words, ()
        from edge_fer.backends.choose import choose

        timed = choose(bundle, threads=threads).candidates
    except EdgeFerError as error:
        return str(error), ()
    except ImportError as error:
        return f"cannot be run: {error}", ()
    return words, tuple(
        Timing(backend=one.backend, precision=one.precision, median_us=one.median_us, error=one.error) for one in timed
    )


def _engine_cache() -> str | None:
    registry = _registry()
    return None if registry is None else str(registry.cache_folder())


def _registry() -> ModuleType | None:
    """Our backends, or ``None`` where they do not import because OpenCV does not; the probes say why."""
    try:
        return import_module("edge_fer.backends.registry")
    except ImportError:
        return None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _distributions(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name} {version}" for name in names if (version := _version(name)) is not None)
