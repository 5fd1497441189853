"""Our loop against the loop of the papers (rival.py): frames a second, processor time, frame age, overload.

    python benchmarks/loop.py --out benchmarks/results/MACHINE/loop.json --report benchmarks/LOOP.md

720p clips with one face and with four (clips.py). Every measurement has a process of its own; the rounds of all cases
are interleaved, and ratios are taken within rounds. ``--quick`` proves that everything works and measures nothing.
``--peer mediapipe_faces`` adds what another package's face detection alone costs on the same clip (peers/run.py).
Needs: pip install -e '.[dev]' av
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from clips import make_clip

from edge_fer import __version__
from edge_fer.backends.host import cpu_name
from edge_fer.bench.plan import ModelEntry
from edge_fer.bench.prepare import prepare
from edge_fer.core.files import atomic_file
from edge_fer.core.threads import usable_threads

HERE = Path(__file__).resolve().parent
RESNET, DEFAULT, RIVAL = "resnet18@224", "edge-fer-compact", "rival"
CLIPS = {"one face": 1, "four faces": 4}
OVERLOAD = f"overload, {RESNET}"
BARS = {(RESNET, "one face"): 8.0, (DEFAULT, "one face"): 15.0, (DEFAULT, "four faces"): 10.0}
COUNTS = ("frames_in", "labelled", "dropped", "failed")
TIMEOUT_S = 900
PEER_TIMEOUT_S = 3000
"""The first call of a peer installs its environment."""


def start(command: list[str]) -> dict[str, Any]:
    """Run one measurement in a process of its own and return its answer."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


class Bench:
    """The orders of a run: what is asked of which process."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> None:
        self._arguments, self._say = arguments, say
        self.clips: dict[str, Path] = {}
        for name, faces in CLIPS.items():
            say(f"making the clip with {name}")
            self.clips[name] = folder / f"faces{faces}.mp4"
            make_clip(self.clips[name], faces, frames=130 if arguments.quick else None)
        say(f"preparing {RESNET} (untrained weights: speed only)")
        forms = prepare(ModelEntry(name=RESNET, arch="resnet18"), folder)
        onnx = forms.onnx["int8" if arguments.precision == "int8" else "fp32"]
        self._models: dict[str, dict[str, Any]] = {
            RESNET: {"onnx": str(onnx), "spec": forms.spec.model_dump(mode="json")},
            DEFAULT: {"onnx": None, "spec": None},
        }

    def ours(self, do: str, model: str, clip: str, **more: object) -> dict[str, Any]:
        asked = self._arguments
        order = {
            "do": do, "model": model, "clip": str(self.clips[clip]), "detector": asked.detector,
            "backend": asked.backend, "precision": asked.precision, "threads": asked.threads,
            "seconds": asked.seconds, **self._models[model], **more,
        }  # fmt: skip
        return start([str(HERE / "loop_worker.py"), json.dumps(order)])

    def rounds(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """clip -> case -> the answer of every round."""
        found: dict[str, dict[str, list[dict[str, Any]]]] = {
            clip: {case: [] for case in (RIVAL, RESNET, DEFAULT)} for clip in CLIPS
        }
        if self._arguments.peer:
            found["one face"][self._arguments.peer] = []
        for turn in range(self._arguments.rounds):
            for clip, cases in found.items():
                for case, answers in cases.items():
                    self._say(f"round {turn + 1}: {case}, {clip}")
                    if case == RIVAL:
                        seconds = str(self._arguments.seconds)
                        answers.append(start([str(HERE / "rival.py"), str(self.clips[clip]), "--seconds", seconds]))
                    elif case == self._arguments.peer:
                        answers.append(self._peer(clip))
                    else:
                        answers.append(self.ours("file", case, clip))
        return found

    def cameras(self, overload_fps: float) -> dict[str, list[dict[str, Any]]]:
        """case -> the answer of every round. At ``overload_fps``, three times what the loop manages on a file, every
        frame is late."""
        cases = {f"30 fps, {model}": (model, 30.0) for model in (DEFAULT, RESNET)}
        cases[OVERLOAD] = (RESNET, overload_fps)
        found: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
        for turn in range(self._arguments.rounds):
            for case, (model, fps) in cases.items():
                self._say(f"round {turn + 1}: camera, {case}")
                found[case].append(self.ours("camera", model, "one face", fps=fps))
        return found

    def _peer(self, clip: str) -> dict[str, Any]:
        """Detection alone by another package, on frames that are already decoded."""
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "peer.json"
            command = [sys.executable, str(HERE / "peers" / "run.py"), self._arguments.peer]
            command += ["--clip", str(self.clips[clip]), "--json", str(answer)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_TIMEOUT_S)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
            figures: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return {"fps": figures["clip_fps"], **figures}


def machine() -> dict[str, Any]:
    about = {"system": platform.platform(), "python": platform.python_version()}
    return {"cpu": cpu_name(), "cores": usable_threads(), **about}


def middle(answers: list[dict[str, Any]], key: str) -> float:
    return statistics.median(float(answer[key]) for answer in answers)


def ratios(ours: list[dict[str, Any]], rival: list[dict[str, Any]]) -> list[float]:
    """Frames a second over the rival's, round by round."""
    return [a["fps"] / b["fps"] for a, b in zip(ours, rival, strict=True)]


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="edge-fer-loop-") as name:
        bench = Bench(arguments, Path(name), say)
        files = bench.rounds()
        cameras = bench.cameras(3 * middle(files["one face"][RESNET], "fps"))
        say("every part alone")
        parts = {model: bench.ours("parts", model, "one face") for model in (DEFAULT, RESNET)}
    for model, alone in parts.items():
        interval = middle(files["one face"][model], "frames_per_detection")
        alone["frames_per_detection"] = interval
        alone["sum_ms"] = alone["decode_ms"] + alone["detect_ms"] / interval + alone["crop_infer_ms"]
        alone["loop_ms"] = 1e3 / middle(files["one face"][model], "fps")
    return {
        "machine": machine(),
        "edge_fer": __version__,
        "when": datetime.fromtimestamp(began, timezone.utc).isoformat(timespec="seconds"),
        "quick": arguments.quick,
        "settings": {
            key: getattr(arguments, key)
            for key in ("rounds", "seconds", "detector", "backend", "precision", "threads", "peer")
        },
        "files": files,
        "cameras": cameras,
        "parts": parts,
    }


def beside_peer(peer: str, cases: dict[str, list[dict[str, Any]]]) -> str:
    """One sentence: our whole loop beside another package's detection alone."""
    times = ratios(cases[DEFAULT], cases[peer])
    package = ", ".join(cases[peer][0]["requirements"])
    alone_ms, fps = middle(cases[peer], "p50_ms"), middle(cases[peer], "fps")
    ratio = f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"
    return (
        f"On the clip with one face `{peer}` ({package}) takes {alone_ms:.2f} ms a frame for detection alone, on "
        f"frames that are already decoded; reading the clip and detecting, and nothing else, it does {fps:.0f} "
        f"frames/s. Our whole loop with {DEFAULT} does {ratio} times that."
    )


def report(found: dict[str, Any]) -> str:
    """The page, from the JSON alone."""
    settings, box = found["settings"], found["machine"]
    lines = ["# The loop, measured", ""]
    if found["quick"]:
        lines += ["**A quick run that only proves that the script works. Its figures mean nothing.**", ""]
    lines += [
        f"{box['cpu']}, {box['cores']} cores; {found['when']}, edge-fer {found['edge_fer']}. {settings['rounds']} "
        f"interleaved rounds of {settings['seconds']:g} s, one process a measurement; medians, ratios within rounds, "
        "in brackets the smallest and the largest.",
        f"Ours: detector {settings['detector']}, {settings['backend']} {settings['precision']}, {settings['threads']} "
        "engine thread(s); the rival: `benchmarks/rival.py`, with the thread counts that OpenCV and torch choose.",
        "",
        "| 720p clip | loop | frames/s | CPU ms a frame | faces a frame | times the rival | bar |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for clip, cases in found["files"].items():
        for case, answers in cases.items():
            if case == settings["peer"]:
                continue
            times = ratios(answers, cases[RIVAL])
            bar = BARS.get((case, clip))
            spread = f"{statistics.median(times):.1f} ({min(times):.1f}-{max(times):.1f})" if case != RIVAL else "1"
            lines.append(
                f"| {clip} | {case} | {middle(answers, 'fps'):.0f} | {middle(answers, 'cpu_ms_per_frame'):.1f} | "
                f"{middle(answers, 'faces_per_frame'):.2f} | {spread} | {f'{bar:g}' if bar else ''} |"
            )
    if settings["peer"]:
        lines += ["", beside_peer(settings["peer"], found["files"]["one face"])]
    lines += [
        "", "## Frame age: from captured to labelled", "",
        "| camera | frames in | labelled | dropped | failed | p50 ms | p99 | max | slowest stage: p99 | ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|--:|",
    ]  # fmt: skip
    for case, rounds in found["cameras"].items():
        counts = " | ".join(str(sum(seen[key] for seen in rounds)) for key in COUNTS)
        times = [seen["age_p99_ms"] / seen["slowest_stage_p99_ms"] for seen in rounds]
        stages = "/".join(sorted({seen["slowest_stage"] for seen in rounds}))
        lines.append(
            f"| {case} | {counts} | {middle(rounds, 'age_p50_ms'):.1f} | {middle(rounds, 'age_p99_ms'):.1f} | "
            f"{max(seen['age_max_ms'] for seen in rounds):.1f} | "
            f"{stages} {middle(rounds, 'slowest_stage_p99_ms'):.1f} | "
            f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f}) |"
        )
    exact = all(seen["all_accounted_for"] for rounds in found["cameras"].values() for seen in rounds)
    fps = found["cameras"][OVERLOAD][0]["camera_fps"]
    lines += [
        "",
        "Counts are of all rounds together: frames in = labelled + dropped + failed, "
        f"{'exact in all of them' if exact else 'NOT EXACT'}. Overload: {fps:.0f} fps, three times the rate that the "
        "loop manages; the bar is a p99 below twice that of the slowest stage.",
        "", "## The loop beside its parts, each timed alone", "",
        "| model | decode | detect | N | follow | crop + infer | decode + detect/N + infer | loop | loop / sum |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for model, alone in found["parts"].items():
        lines.append(
            f"| {model} | {alone['decode_ms']:.2f} | {alone['detect_ms']:.2f} | {alone['frames_per_detection']:.1f} | "
            f"{alone['follow_ms']:.2f} | {alone['crop_infer_ms']:.2f} | {alone['sum_ms']:.2f} | "
            f"{alone['loop_ms']:.2f} | {alone['loop_ms'] / alone['sum_ms']:.2f} |"
        )
    lines += [
        "",
        "Milliseconds; N: frames from one full detection to the next. Below 1.10 the loop itself costs less than 10 %; "
        "below 1 its stages overlap on the cores.",
        "",
        "Repeat with:",
        "",
        "```",
        f"python benchmarks/loop.py --rounds {settings['rounds']} --seconds {settings['seconds']:g} "
        "--out benchmarks/results/MACHINE/loop.json --report benchmarks/LOOP.md"
        + (f" --peer {settings['peer']}" if settings["peer"] else ""),
        "```",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of every measurement")
    parser.add_argument("--detector", default="edge-fer-face", help="as edge-fer run takes it")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="int8", help="int8, or one that is built from the fp32 form")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--peer", help="measure this peer's detection too; its environment is made on first use")
    parser.add_argument("--quick", action="store_true", help="one round of a second: does it work?")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--report", type=Path, help="Markdown page to write")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1.0

    def say(text: str) -> None:
        sys.stderr.write(f"{text} …\n")

    found = measure(arguments, say)
    for path, text in ((arguments.out, json.dumps(found, indent=2) + "\n"), (arguments.report, report(found))):
        if path is not None:
            with atomic_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    sys.stdout.write(report(found))


if __name__ == "__main__":
    main()
