"""What int8 buys on networks of the usual sizes: torch, ONNX Runtime, OpenVINO, and NNCF's own quantiser as the rival.

    python benchmarks/quantisation.py --out benchmarks/results/MACHINE --report benchmarks/QUANTISATION.md

ResNet18, ResNet50 and ConvNeXt-Tiny at 224x224 with untrained weights (speed does not depend on them), batch 1, one
thread and two. Ours and NNCF's file come from the same fp32 graph and the same faces. Rounds of all cases are
interleaved, every case of every round has a process of its own, and ratios are taken within rounds
(edge_fer/bench/measure.py). ``--quick`` proves that everything works and measures nothing.
Needs: pip install -e '.[dev]' nncf
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from edge_fer.bench.conditions import disturbance, look, ticks
from edge_fer.bench.device import describe_machine
from edge_fer.bench.jobs import measure as time_calls
from edge_fer.bench.measure import prepare_models, run_plan
from edge_fer.bench.plan import Case, ModelEntry, Plan
from edge_fer.bench.prepare import PreparedModel
from edge_fer.bench.report import to_markdown
from edge_fer.bench.results import BenchResult, CaseResult, Surroundings, summarise, write_json
from edge_fer.bench.statistics import Interval, paired_ratio
from edge_fer.compile.canary_faces import canary_images, face_batch
from edge_fer.core.files import atomic_file

HERE = Path(__file__).resolve().parent
NETWORKS = {"resnet18@224": "resnet18", "resnet50@224": "resnet50", "convnext_tiny@224": "convnext_tiny"}
NNCF = " (NNCF)"
"""Added to a network's name where NNCF quantised it."""
RUN = ("torch:fp32", "onnxruntime:fp32", "onnxruntime:int8", "openvino:fp32", "openvino:bf16", "openvino:int8")
NNCF_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Bar:
    """A ratio of latencies that must be reached: ``slow / fast >= at_least``, each written runtime:precision."""

    network: str
    slow: str
    fast: str
    at_least: float
    slow_is_nncf: bool = False

    def case_keys(self, threads: int) -> tuple[str, str]:
        def key(pair: str, model: str) -> str:
            runtime, precision = pair.split(":")
            return f"{model}/{runtime}/{precision}/t{threads}/b1"

        return key(self.slow, self.network + NNCF * self.slow_is_nncf), key(self.fast, self.network)


BARS = (
    Bar("resnet18@224", "openvino:fp32", "openvino:int8", 3.0),
    Bar("resnet18@224", "torch:fp32", "openvino:int8", 6.0),
    Bar("resnet18@224", "torch:fp32", "onnxruntime:int8", 4.5),
    *(Bar(name, "openvino:int8", "openvino:int8", 1 / 1.05, slow_is_nncf=True) for name in NETWORKS),
    Bar("convnext_tiny@224", "openvino:fp32", "openvino:int8", 2.0),
)


class QuantisationPlan(Plan):
    """A plan in which a network that NNCF quantised runs in OpenVINO's int8 only."""

    def cases(self) -> list[Case]:
        return [
            case
            for case in super().cases()
            if not case.model.endswith(NNCF) or (case.runtime, case.precision) == ("openvino", "int8")
        ]


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
        models=(*entries, *rivals),
        run=RUN,
        threads=(1,) if quick else (1, 2),
        timeout_s=600,
        **{"rounds": 7, "min_seconds": 2.0, "min_iterations": 30, "warm_up_seconds": 1.0, **settings},
    )


def prepare_all(plan: Plan, folder: Path, say: Callable[[str], None]) -> dict[str, PreparedModel | str]:
    """Forms of every network, and NNCF's of each; a sentence where one cannot be had."""
    ours = plan.model_copy(update={"models": tuple(m for m in plan.models if not m.name.endswith(NNCF))})
    models = prepare_models(ours, folder, lambda text, done, total: say(text))
    for name, model in list(models.items()):
        say(f"quantising {name} with NNCF")
        models[name + NNCF] = model if isinstance(model, str) else _by_nncf(model, folder)
    return models


def _by_nncf(model: PreparedModel, folder: Path) -> PreparedModel | str:
    """The network as NNCF quantises it on the faces that our ranges come from, in a process of its own."""
    faces, out = folder / f"{model.spec.name}.npy", folder / f"{model.spec.name}.nncf.xml"
    np.save(faces, face_batch(canary_images(), model.spec.preprocess))
    command = [sys.executable, str(HERE / "nncf_native.py"), str(model.onnx["fp32"]), str(faces), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=NNCF_TIMEOUT_S, check=False)
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        return f"NNCF cannot quantise it: {last.strip()}"
    return PreparedModel(model.spec, None, {"int8": out}, None, trained=False)


def judge(result: BenchResult) -> list[Verdict]:
    """Every bar, with the median over rounds of the ratio within a round."""
    verdicts = []
    for threads in result.plan.threads:
        for bar in BARS:
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
        "| network | threads | ratio of latencies | wanted | measured (95 %) | |",
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
            outcome = "pass" if verdict.passed else "**fail**"
        ratio = f"{slow} / {_words(bar.fast)}"
        rows.append(f"| {bar.network} | {verdict.threads} | {ratio} | {bar.at_least:.2f} | {shown} | {outcome} |")
    heading = "Tiny inputs and two short rounds: the figures mean nothing.\n\n" if quick else ""
    return heading + "\n".join(rows) + "\n"


def _words(pair: str) -> str:
    runtime, precision = pair.split(":")
    names = {"torch": "torch eager", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    return f"{names[runtime]} {precision}"


def measure(plan: Plan, say: Callable[[str], None]) -> BenchResult:
    clock = statistics.median(time_calls(_nothing, 0.1, 1000)) / 1e3
    machine = describe_machine()
    before, began = look(machine.noise), ticks()
    with tempfile.TemporaryDirectory(prefix="edge-fer-quantisation-", ignore_cleanup_errors=True) as folder:
        models = prepare_all(plan, Path(folder), say)
        outcomes = run_plan(plan, models=models, progress=lambda text, done, total: say(f"{text} ({done + 1}/{total})"))
    taken = disturbance(began, ticks())
    after = look(describe_machine().noise)
    around = Surroundings(machine=machine, before=before, after=after, disturbance=taken, clock_overhead_us=clock)
    result = summarise(plan, outcomes, None, around)
    # NNCF's network lies in two files, of which the plan knows the smaller.
    cases = tuple(c.model_copy(update={"file_bytes": None}) if c.case.model.endswith(NNCF) else c for c in result.cases)
    with contextlib.suppress(metadata.PackageNotFoundError):  # its cases say so themselves
        result = result.model_copy(update={"packages": {**result.packages, "nncf": metadata.version("nncf")}})
    return result.model_copy(update={"cases": cases})


def _nothing() -> None: ...


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of this machine's results; quantisation.json is written there")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="tiny inputs, two short rounds: proves that it works")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    result = measure(make_plan(arguments.networks, quick=arguments.quick), say)
    verdicts = judge(result)
    bars = bar_table(verdicts, quick=arguments.quick)
    print(bars)  # noqa: T201
    if arguments.out is not None:
        write_json(arguments.out / "quantisation.json", result)
    if arguments.report is not None:
        text = (
            "# Quantisation\n\nWritten by `python benchmarks/quantisation.py`, never by hand. Untrained weights, batch "
            "1: speed only. A network\ncalled (NNCF) is the same fp32 graph, quantised by NNCF with its defaults on "
            f"the same faces.\n\n## Bars\n\n{bars}\n## Figures\n\n{to_markdown(result)}"
        )
        with atomic_file(arguments.report) as temporary:
            temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
    if arguments.quick:
        return 0 if all(verdict.ratio is not None for verdict in verdicts) else 1
    return 0 if all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
