"""What to measure: a YAML file of models and ways to run them, expanded into cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from edge_fer.core.bundle import find_bundle
from edge_fer.core.errors import UsageError
from edge_fer.core.files import shortest_end
from edge_fer.core.findings import findings
from edge_fer.core.packages import require_package
from edge_fer.core.settings_files import read_settings
from edge_fer.core.spec import Frozen
from edge_fer.models.registry import ARCHITECTURES

Runtime = Literal[
    "torch",
    "torch-compile",
    "onnxruntime",
    "openvino",
    "benchmark-app",
    "tensorrt",
    "onnxruntime-cuda",
    "onnxruntime-cuda-graph",
    "onnxruntime-tensorrt",
]
"""``torch`` is eager; ``benchmark-app`` is OpenVINO's own tool on the same network, the yardstick of our calls."""


class ModelEntry(Frozen):
    """A model to measure: a bundle with its checkpoint, or an architecture with untrained weights (speed only).

    Attributes:
        name: how the tables call it.
        bundle: folder, or name of a shipped bundle.
        arch: architecture, with its published input size.
        colour: of an ``arch`` entry; default is what the architecture was published with.
        size_hw: of an ``arch`` entry; default is the architecture's own.
        also: ways to run this model beside the plan's, for what is too slow or too special to ask of every model.
    """

    name: str
    bundle: str | None = None
    arch: str | None = None
    colour: Literal["gray", "rgb"] | None = None
    size_hw: tuple[int, int] | None = None
    also: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> ModelEntry:
        if (self.bundle is None) == (self.arch is None):
            raise ValueError("give either bundle or arch")
        return self


class Case(Frozen):
    """One line of the table. ``batch`` is the number of faces in one call."""

    model: str
    runtime: Runtime
    precision: Literal["fp32", "bf16", "fp16", "int8"]
    threads: int = Field(ge=1)
    batch: int = Field(ge=1, le=64)

    @property
    def key(self) -> str:
        return f"{self.model}/{self.runtime}/{self.precision}/t{self.threads}/b{self.batch}"


class CameraPlan(Frozen):
    """Camera to label: the run loop on a clip that is played as a camera.

    Attributes:
        seconds: how long the camera runs.
        fps: frames a second; ``None`` takes the clip's own rate. More than the loop can do keeps it busy all the time.
        clip: a video file; ``None`` is the clip that ships with the project.
        engine: a bundle; ``None`` is the default model.
        backend, precision, detector, threads: as ``edge-fer run`` takes them.
        detect_every: frames between two full searches; ``None`` lets the loop adapt it.
        min_face: smallest face wanted, in pixels; ``None`` is a ninth of the frame's height.
        device: ``cpu``, ``cuda`` or ``cuda:N``, as ``edge-fer run`` takes it.
    """

    seconds: float = Field(default=20.0, gt=0)
    fps: float | None = Field(default=None, gt=0)
    clip: str | None = None
    engine: str | None = None
    backend: str = "auto"
    precision: str = "auto"
    detector: str = "edge-fer-face"
    detect_every: int | None = Field(default=None, ge=1)
    min_face: int | None = Field(default=None, ge=16)
    threads: int = Field(default=1, ge=1)
    device: str = "cpu"


class Plan(Frozen):
    """A benchmark. Every case is measured ``rounds`` times, in turn with all others, each time in a fresh process for
    at least ``min_seconds`` and ``min_iterations``, after ``warm_up_seconds``."""

    name: str
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    run: tuple[str, ...] = Field(min_length=1)
    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    rounds: int = Field(default=5, ge=1)
    min_seconds: float = Field(default=1.0, gt=0)
    min_iterations: int = Field(default=20, ge=1)
    warm_up_seconds: float = Field(default=0.5, ge=0)
    timeout_s: float = Field(default=300.0, gt=0)
    camera: CameraPlan | None = None

    @model_validator(mode="after")
    def _expands(self) -> Plan:
        self.cases()
        if self.timeout_s <= 2 * self.min_seconds + self.warm_up_seconds:
            raise ValueError("timeout_s must leave room for warm_up_seconds and twice min_seconds")
        if len({model.name for model in self.models}) != len(self.models):
            raise ValueError("two models have the same name")
        return self

    def cases(self) -> list[Case]:
        """All combinations, model by model; ``run`` entries are written ``runtime:precision``."""
        cases = []
        ways = (
            (model, threads, batch, pair)
            for model, threads, batch in product(self.models, self.threads, self.batches)
            for pair in dict.fromkeys((*self.run, *model.also))
        )
        for model, threads, batch, pair in ways:
            runtime, separator, precision = pair.partition(":")
            if not separator:
                raise ValueError(f"run entries are written runtime:precision, not {pair!r}")
            cases.append(
                Case.model_validate(
                    {
                        "model": model.name,
                        "runtime": runtime,
                        "precision": precision,
                        "threads": threads,
                        "batch": batch,
                    }
                )
            )
        return cases


def model_entry(text: str) -> ModelEntry:
    """A model as people type it: a bundle's folder or shipped name, or an architecture with an optional input size in
    pixels (``resnet18@112``), whose weights are then untrained.

    Raises:
        UsageError: the size is no number, or there is neither a bundle nor an architecture of that name.
        MissingDependencyError: it is an architecture, and torch or onnx, which build it, are not installed.
    """
    arch, separator, size = text.partition("@")
    if not separator:
        try:
            find_bundle(text)
        except UsageError:
            _check_architecture(text)
            return ModelEntry(name=text, arch=text)
        return ModelEntry(name=Path(text).name or text, bundle=text)
    if not size.isdigit():
        raise UsageError(f"--model {text!r}: {size!r} is no size in pixels.", fix="Write resnet18@112.")
    _check_architecture(arch)
    return ModelEntry(name=text, arch=arch, size_hw=(int(size), int(size)))


def model_entries(texts: Sequence[str]) -> list[ModelEntry]:
    """Several models as people type them. Bundles in folders of one name, such as two trainings by one recipe, are told
    apart by the ends of their paths.

    Raises:
        what :func:`model_entry` does.
    """
    entries = [model_entry(text) for text in texts]
    folders = {entry.bundle: find_bundle(entry.bundle).resolve() for entry in entries if entry.bundle is not None}
    named = []
    for entry in entries:
        same = [other.bundle for other in entries if other.name == entry.name and other.bundle is not None]
        if entry.bundle is not None and (others := {folders[text] for text in same} - {folders[entry.bundle]}):
            entry = entry.model_copy(update={"name": shortest_end(folders[entry.bundle], others)})
        named.append(entry)
    return named


def _check_architecture(name: str) -> None:
    """Tell a typing error, and that torch is missing, now and not in the table."""
    if name not in ARCHITECTURES:
        raise UsageError(
            f"--model: no folder, shipped model or architecture is called {name!r}.",
            fix=f"Architectures: {', '.join(sorted(ARCHITECTURES))}.",
        )
    for package in ("torch", "onnx"):
        require_package(package, extra="compile", purpose=f"building {name}")


def changed(plan: Plan, changes: Mapping[str, object]) -> Plan:
    """The plan with other values, checked as a whole; ``None`` and empty lists change nothing. Another ``run`` holds
    for every model: what single models were to be run with beside it goes.

    Raises:
        UsageError: the values do not fit; the message names them.
    """
    wanted = {key: value for key, value in changes.items() if value is not None and value != []}
    tree = plan.model_dump() | wanted
    if "run" in wanted:
        tree["models"] = [{**model, "also": ()} for model in tree["models"]]
    try:
        return Plan.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"These options make no plan: {findings(error, Plan)}.") from None


def only(plan: Plan, names: Sequence[str]) -> Plan:
    """The plan with these of its models, each with all that the plan runs it with.

    Raises:
        UsageError: it has no such model; the message lists them.
    """
    known = {model.name: model for model in plan.models}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"The plan {plan.name!r} has no model {', '.join(unknown)}.", fix=f"Its models: {', '.join(known)}."
        )
    return plan.model_copy(update={"models": tuple(model for name, model in known.items() if name in names)})


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        BadInputError: no such file, not YAML, or wrong keys; the message names them.
    """
    return read_settings(path, Plan, "plan")


def default_plan() -> Plan:
    """The default network and ResNet18@224 on everything that this version runs, one thread, one face."""
    return Plan(
        name="default",
        models=(
            ModelEntry(name="edge-fer-compact", bundle="edge-fer-compact"),
            ModelEntry(name="resnet18@224", arch="resnet18"),
        ),
        run=(
            "torch:fp32",
            "onnxruntime:fp32",
            "onnxruntime:int8",
            "openvino:fp32",
            "openvino:bf16",
            "openvino:int8",
        ),
    )
