"""What int8 buys and what it costs: torch, ONNX Runtime, OpenVINO, and NNCF's own quantiser as the rival.

    python benchmarks/quantisation.py --data FER2013 --out benchmarks/results/NAME --report benchmarks/QUANTISATION.md

ResNet18, ResNet50 and ConvNeXt-Tiny at 224x224 with untrained weights (speed does not depend on them), batch 1, go
through ``edge-fer compile --precision int8`` as anybody's network would, ladder included. NNCF's file comes from the
same fp32 graph and the same faces. Rounds of all cases are interleaved, every case of every round has a process of its
own, and ratios are taken within rounds (edge_fer/bench/measure.py). The default model is held to its accuracy on the
faces of ``--data``. On a quiet machine all of it takes about a quarter of an hour; ``--quick`` proves that everything
works, in two minutes, and measures nothing. Needs: pip install -e '.[dev]' nncf
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

from edge_fer.bench.conditions import disturbance, look, ticks
from edge_fer.bench.device import describe_machine
from edge_fer.bench.jobs import measure as time_calls
from edge_fer.bench.markdown import to_markdown
from edge_fer.bench.measure import Outcome, run_plan
from edge_fer.bench.plan import Case, ModelEntry, Plan
from edge_fer.bench.prepare import PreparedModel, prepare
from edge_fer.bench.results import BenchResult, CaseResult, Surroundings, summarise, write_json
from edge_fer.bench.statistics import Interval, paired_ratio
from edge_fer.compile.canary_faces import canary_images, face_batch
from edge_fer.compile.compile_model import compile_model
from edge_fer.compile.request import CompileRequest
from edge_fer.core.bundle import DEFAULT_MODEL, open_bundle
from edge_fer.core.errors import EdgeFerError
from edge_fer.core.files import atomic_file
from edge_fer.core.manifest import LadderRecord
from edge_fer.data.datasets import open_dataset
from edge_fer.evaluate.metrics import harmed_classes, paired_drop

HERE = Path(__file__).resolve().parent
NETWORKS = {"resnet18@224": "resnet18", "resnet50@224": "resnet50", "convnext_tiny@224": "convnext_tiny"}
NNCF = " (NNCF)"
"""Added to a network's name where NNCF quantised it."""
RUN = ("torch:fp32", "onnxruntime:fp32", "onnxruntime:int8", "openvino:fp32", "openvino:bf16", "openvino:int8")
NNCF_TIMEOUT_S = 900
FACES_PER_CLASS = 8
MAX_DROP, MIN_AGREEMENT = 0.3, 0.99
"""The default model's bars: points of top-1 that int8 may lose, and the share of faces that keep their fp32 label."""


@dataclass(frozen=True)
class Bar:
    """A ratio of latencies that must be reached: ``slow / fast >= at_least``, each written runtime:precision."""

    network: str
    slow: str
    fast: str
    at_least: float
    slow_is_nncf: bool = False
    threads: tuple[int, ...] = (1,)

    def case_keys(self, threads: int) -> tuple[str, str]:
        def key(pair: str, model: str) -> str:
            runtime, precision = pair.split(":")
            return f"{model}/{runtime}/{precision}/t{threads}/b1"

        return key(self.slow, self.network + NNCF * self.slow_is_nncf), key(self.fast, self.network)


BARS = (
    Bar("resnet18@224", "openvino:fp32", "openvino:int8", 3.0, threads=(1, 2)),
    Bar("resnet18@224", "torch:fp32", "openvino:int8", 6.0, threads=(1, 2)),
    Bar("resnet18@224", "torch:fp32", "onnxruntime:int8", 4.5, threads=(1, 2)),
    Bar("resnet18@224", "openvino:int8", "openvino:int8", 1 / 1.05, slow_is_nncf=True, threads=(1, 2)),
    Bar("resnet50@224", "openvino:int8", "openvino:int8", 1 / 1.05, slow_is_nncf=True),
    Bar("convnext_tiny@224", "openvino:int8", "openvino:int8", 1 / 1.05, slow_is_nncf=True),
    Bar("convnext_tiny@224", "openvino:fp32", "openvino:int8", 2.0),
    Bar("convnext_tiny@224", "onnxruntime:fp32", "onnxruntime:int8", 1.1),
)


class QuantisationPlan(Plan):
    """A plan that measures what the bars compare, and little else: a quarter of an hour is what people wait for."""

    def cases(self) -> list[Case]:
        return [case for case in super().cases() if _wanted(case)]


def _wanted(case: Case) -> bool:
    pair = f"{case.runtime}:{case.precision}"
    if case.threads > 1:
        bars = [b for b in BARS if b.network == case.model.removesuffix(NNCF) and case.threads in b.threads]
        needed = {pair for bar in bars for pair in (bar.slow, bar.fast)}
    elif case.model == DEFAULT_MODEL:
        needed = set(RUN) - {"torch:fp32", "openvino:bf16"}
    elif case.model == "resnet50@224":
        needed = set(RUN) - {"onnxruntime:fp32", "openvino:bf16"}
    else:
        needed = set(RUN)
    # NNCF writes for OpenVINO.
    return pair in needed and (not case.model.endswith(NNCF) or pair == "openvino:int8")


@dataclass(frozen=True)
class Verdict:
    """A bar and what was measured; ``ratio`` is ``None`` where a case has no figures."""

    bar: Bar
    threads: int
    ratio: float | None
    interval: Interval | None
    why_not: str = ""

    @property
    def passed(self) -> bool:
        return self.ratio is not None and self.ratio >= self.bar.at_least


def make_plan(names: list[str], *, quick: bool) -> QuantisationPlan:
    entries = [ModelEntry(name=name, arch=NETWORKS[name], size_hw=(32, 32) if quick else None) for name in names]
    rivals = [entry.model_copy(update={"name": entry.name + NNCF}) for entry in entries]
    settings = {"rounds": 2, "min_seconds": 0.05, "min_iterations": 3, "warm_up_seconds": 0.05} if quick else {}
    return QuantisationPlan(
        name="quantisation-quick" if quick else "quantisation",
        models=(ModelEntry(name=DEFAULT_MODEL, bundle=DEFAULT_MODEL), *entries, *rivals),
        run=RUN,
        threads=(1, 2),
        timeout_s=600,
        **{"rounds": 5, "min_seconds": 0.6, "min_iterations": 10, "warm_up_seconds": 0.3, **settings},
    )


def write_faces(folder: Path, data: Path | None) -> Path:
    """Faces to measure ranges on: class folders with some of every class of the training split, or else a flat folder
    of views of the shipped ones, which do for speed."""
    if data is None:
        views = [
            view
            for image in canary_images()
            for view in (image, np.ascontiguousarray(image[:, ::-1]), cv2.convertScaleAbs(image, None, 0.7))
        ]
        named = [("", view) for view in views]
    else:
        samples = open_dataset(data, "train")
        picks = [np.flatnonzero(samples.labels == k)[:FACES_PER_CLASS] for k in range(len(samples.class_names))]
        chosen = samples.select(np.concatenate(picks))
        named = [(chosen.class_names[label], chosen.read(i)) for i, label in enumerate(chosen.labels)]
    for index, (name, image) in enumerate(named):
        (folder / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name / f"{index:03d}.png"), image)
    return folder


def prepare_all(
    plan: Plan, folder: Path, faces: Path, say: Callable[[str], None]
) -> tuple[dict[str, PreparedModel | str], dict[str, LadderRecord]]:
    """Forms of every network as ``edge-fer compile`` makes them, and NNCF's; a sentence where one cannot be had.

    Returns:
        the models by name, and what the ladder timed for those that were compiled here.
    """
    models: dict[str, PreparedModel | str] = {}
    ladders: dict[str, LadderRecord] = {}
    for entry in plan.models:
        if entry.name.endswith(NNCF):
            continue
        say(f"preparing {entry.name}")
        try:
            model = prepare(entry, folder)
            if model.bundle is None:
                model, ladders[entry.name] = _compiled(model, folder, faces, say)
        except EdgeFerError as error:
            models[entry.name] = models[entry.name + NNCF] = str(error)
            continue
        models[entry.name] = model
        if entry.arch is not None:
            say(f"quantising {entry.name} with NNCF")
            models[entry.name + NNCF] = _by_nncf(model, folder, faces)
    return models, ladders


def _compiled(
    model: PreparedModel, folder: Path, faces: Path, say: Callable[[str], None]
) -> tuple[PreparedModel, LadderRecord]:
    """The network after ``edge-fer compile --precision int8``: its bundle's forms, and what was timed for it."""
    assert model.checkpoint is not None
    out = folder / f"{model.spec.name}.bundle"
    report = compile_model(
        CompileRequest(checkpoint=model.checkpoint, out=out, precision="int8", calibration=faces),
        lambda what, done, total: say(f"  {what}") if not total else None,
    )
    assert report.ladder is not None
    bundle = open_bundle(out)
    onnx = {kind: bundle.file(bundle.variant(kind, "cpu").file) for kind in ("fp32", "int8")}
    return replace(model, onnx=onnx), report.ladder


def _by_nncf(model: PreparedModel, folder: Path, images: Path) -> PreparedModel | str:
    """The network as NNCF quantises it on the faces that our ranges come from, in a process of its own."""
    faces, out = folder / f"{model.spec.name}.npy", folder / f"{model.spec.name}.nncf.xml"
    pictures = [cv2.imread(str(path)) for path in sorted(images.rglob("*.png"))]
    np.save(faces, np.concatenate([face_batch(picture[None], model.spec.preprocess) for picture in pictures]))
    command = [sys.executable, str(HERE / "nncf_native.py"), str(model.onnx["fp32"]), str(faces), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=NNCF_TIMEOUT_S, check=False)
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        return f"NNCF cannot quantise it: {last.strip()}"
    return PreparedModel(model.spec, None, {"int8": out}, None, trained=False)


def judge(result: BenchResult) -> list[Verdict]:
    """Every bar, with the median over rounds of the ratio within a round."""
    verdicts = []
    for bar in BARS:
        for threads in bar.threads:
            if bar.network not in {model.name for model in result.plan.models}:
                continue
            found = [result.case(key) for key in bar.case_keys(threads)]
            missing = [_why(case, key) for case, key in zip(found, bar.case_keys(threads), strict=True) if _bad(case)]
            if missing:
                verdicts.append(Verdict(bar, threads, None, None, "; ".join(missing)))
                continue
            slow, fast = ([r.median_us for r in case.rounds] for case in found if case is not None)
            verdicts.append(Verdict(bar, threads, *paired_ratio(slow, fast)))
    return verdicts


def _bad(case: CaseResult | None) -> bool:
    return case is None or bool(case.error)


def _why(case: CaseResult | None, key: str) -> str:
    return f"{key}: {case.error if case is not None else 'was not measured'}"


def bar_table(verdicts: list[Verdict], *, quick: bool) -> str:
    """The bars as Markdown."""
    rows = [
        "| network | threads | ratio of latencies | wanted | measured (interval) | |",
        "|---|---|---|---|---|---|",
    ]
    for verdict in verdicts:
        bar = verdict.bar
        slow = "OpenVINO int8 of NNCF" if bar.slow_is_nncf else _words(bar.slow)
        if verdict.ratio is None:
            shown, outcome = verdict.why_not, "not measured"
        else:
            shown = f"{verdict.ratio:.2f}"
            if verdict.interval is not None:
                shown += f" ({verdict.interval[0]:.2f} to {verdict.interval[1]:.2f})"
            outcome = "ran" if quick else "pass" if verdict.passed else "**fail**"
        ratio = f"{slow} / {_words(bar.fast)}"
        rows.append(f"| {bar.network} | {verdict.threads} | {ratio} | {bar.at_least:.2f} | {shown} | {outcome} |")
    heading = "Tiny inputs and two short rounds: the figures mean nothing.\n\n" if quick else ""
    return heading + "\n".join(rows) + "\n"


def _words(pair: str) -> str:
    runtime, precision = pair.split(":")
    names = {"torch": "torch eager", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    return f"{names[runtime]} {precision}"


@dataclass(frozen=True)
class Kept:
    """What int8 keeps of the default model on one backend, against its fp32 on the same faces; ``across`` is the share
    of faces that int8 gives the same label on the other backend."""

    backend: str
    n: int
    drop: float
    interval: Interval
    agreement: float
    across: float
    harmed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        alike = min(self.agreement, self.across) >= MIN_AGREEMENT
        return self.drop <= MAX_DROP and alike and not self.harmed


def accuracy(outcomes: Sequence[Outcome], class_names: Sequence[str]) -> list[Kept]:
    """Of both backends, from the labels that each engine gave in a process of its own."""
    scored = {
        (o.case.runtime, o.case.precision): o for o in outcomes if o.case.model == DEFAULT_MODEL and o.predictions
    }
    found = []
    for backend, other in (("onnxruntime", "openvino"), ("openvino", "onnxruntime")):
        before, after, across = (scored.get(key) for key in ((backend, "fp32"), (backend, "int8"), (other, "int8")))
        if before is None or after is None or across is None:
            continue
        labels = np.asarray(before.labels)
        answers = np.asarray(before.predictions), np.asarray(after.predictions)
        drop = paired_drop(labels, *answers)
        harmed = harmed_classes(labels, *answers, class_names, MAX_DROP)
        found.append(
            Kept(
                backend,
                len(labels),
                drop.drop,
                drop.interval,
                float((answers[0] == answers[1]).mean()),
                float((answers[1] == np.asarray(across.predictions)).mean()),
                tuple(harmed),
            )
        )
    return found


def accuracy_table(kept: Sequence[Kept], data: str) -> str:
    """As Markdown."""
    rows = [
        f"| {DEFAULT_MODEL} on {data} | points of top-1 lost (95 %), at most {MAX_DROP:g} | same label as fp32, "
        f"at least {MIN_AGREEMENT:.0%} | as the other backend's int8 | classes harmed | |",
        "|---|---|---|---|---|---|",
    ]
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    for one in kept:
        lost = f"{one.drop:+.2f} ({one.interval[0]:+.2f} to {one.interval[1]:+.2f})"
        verdict = "pass" if one.passed else "**fail**"
        classes = ", ".join(one.harmed) or "none"
        rows.append(
            f"| {names[one.backend]} int8, {one.n} faces | {lost} | {one.agreement:.3%} | {one.across:.3%} | {classes} "
            f"| {verdict} |"
        )
    return "\n".join(rows) + "\n"


def ladder_table(name: str, ladder: LadderRecord) -> str:
    """What ``edge-fer compile`` timed before it chose, as Markdown."""
    rows = [
        f"**{name}**: {ladder.reason}.",
        "",
        "| engine | layers in fp32 | ms | times as fast as fp32 | |",
        "|---|--:|--:|--:|---|",
    ]
    for trial in ladder.trials:
        ms = "" if trial.median_us is None else f"{trial.median_us / 1e3:.2f}"
        ratio = ""
        if trial.speedup is not None and trial.speedup_range is not None:
            ratio = f"{trial.speedup:.2f} ({trial.speedup_range[0]:.2f} to {trial.speedup_range[1]:.2f})"
        kept = str(len(trial.float_layers)) if trial.precision == "int8" else ""
        said = trial.why if trial.verdict != "chosen" else "**chosen**"
        rows.append(f"| {trial.backend} {trial.precision} | {kept} | {ms} | {ratio} | {said} |")
    return "\n".join(rows) + "\n"


@dataclass(frozen=True)
class Measured:
    """Everything of one run."""

    result: BenchResult
    kept: list[Kept]
    ladders: dict[str, LadderRecord]


def measure(plan: Plan, data: Path | None, split: str, say: Callable[[str], None]) -> Measured:
    clock = statistics.median(time_calls(_nothing, 0.1, 1000)) / 1e3
    machine = describe_machine()
    before, began = look(machine.noise), ticks()
    with tempfile.TemporaryDirectory(prefix="edge-fer-quantisation-", ignore_cleanup_errors=True) as folder:
        os.environ["EDGE_FER_CACHE"] = str(Path(folder) / "cache")  # what is built for the run goes with it
        faces = write_faces(Path(folder) / "faces", data)
        models, ladders = prepare_all(plan, Path(folder), faces, say)
        outcomes = run_plan(
            plan,
            models=models,
            data=data,
            split=split if data is not None else None,
            progress=lambda text, done, total: say(f"{text} ({done + 1}/{total})"),
        )
    taken = disturbance(began, ticks())
    after = look(describe_machine().noise)
    around = Surroundings(machine=machine, before=before, after=after, disturbance=taken, clock_overhead_us=clock)
    default = models[DEFAULT_MODEL]
    labels = default.spec.labels if isinstance(default, PreparedModel) else ()
    result = summarise(plan, outcomes, f"{data.resolve().name} {split}" if data is not None else None, around)
    # NNCF's network lies in two files, of which the plan knows the smaller.
    cases = tuple(c.model_copy(update={"file_bytes": None}) if c.case.model.endswith(NNCF) else c for c in result.cases)
    with contextlib.suppress(metadata.PackageNotFoundError):  # its cases say so themselves
        result = result.model_copy(update={"packages": {**result.packages, "nncf": metadata.version("nncf")}})
    return Measured(result.model_copy(update={"cases": cases}), accuracy(outcomes, labels), ladders)


def _nothing() -> None: ...


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of this machine's results; quantisation.json is written there")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    parser.add_argument("--data", type=Path, help="FER-2013 in class folders or as CSV, for ranges and accuracy")
    parser.add_argument("--split", default="test", help="part of --data that accuracy is of")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="tiny inputs, two short rounds: proves that it works")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    done = measure(make_plan(arguments.networks, quick=arguments.quick), arguments.data, arguments.split, say)
    result, verdicts = done.result, judge(done.result)
    bars = bar_table(verdicts, quick=arguments.quick)
    if done.kept:
        bars += "\n" + accuracy_table(done.kept, result.data or "")
    print(bars)  # noqa: T201
    if arguments.out is not None:
        write_json(arguments.out / "quantisation.json", result)
    if arguments.report is not None:
        ladders = "\n".join(ladder_table(name, ladder) for name, ladder in done.ladders.items())
        text = (
            "# Quantisation\n\nWritten by `python benchmarks/quantisation.py`, never by hand. ResNet and ConvNeXt have "
            "untrained weights: speed only, batch 1.\nA network called (NNCF) is the same fp32 graph, quantised by "
            f"NNCF with its defaults on the same faces.\n\n## Bars\n\n{bars}\n## What `edge-fer compile` timed and "
            f"chose\n\n{ladders}\n## Figures\n\n{to_markdown(result)}"
        )
        with atomic_file(arguments.report) as temporary:
            temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
    if arguments.quick:
        return 0 if all(verdict.ratio is not None for verdict in verdicts) else 1
    held = bool(done.kept) and all(one.passed for one in done.kept)
    return 0 if held and all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
