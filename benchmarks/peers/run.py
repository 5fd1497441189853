"""What other packages cost on this machine: ``python benchmarks/peers/run.py NAME`` (needs edge-fer installed).

Each peer is a file beside this one. It names its pip requirements, which are installed into a virtual environment of
its own, because these packages exclude each other and edge-fer; and it offers ``open_peer(threads)``, which returns one
function. The peer's process gets decoded pictures only, so that neither decoding nor our code is in its times.

* ``TASK = "detection"``: ``find(image_bgr) -> list of (left, top, right, bottom)``
* ``TASK = "classification"``: ``label(face_bgr) -> name of the class`` or ``None``
* ``REQUIREMENTS``: for pip; empty for what edge-fer's own environment holds
* ``PACKAGES``: whose versions are told
* ``WEIGHTS_FROM``: where the peer fetches its weights at its first start; absent where they travel with the package.
  They end in its environment, too.
* ``function.runs_on``: what computes it, in words

Figures are milliseconds a picture, back to back, after a warm-up; ``clip_fps`` is a detector's with decoding, over the
clip as it is; ``cold_start_s`` runs from before the peer's imports to the end of its first call; ``memory_bytes`` is
what the peer adds to a process that holds the pictures. ``compare.py`` measures all peers in turn.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_fer.core.files import atomic_file
from edge_fer.core.labels import canonical

HERE = Path(__file__).resolve().parent
CLIP = HERE.parents[1] / "edge_fer" / "runtime" / "assets" / "demo.mp4"
VENVS = Path.home() / ".cache" / "edge-fer" / "peers"
FRAME_WH = (1280, 720)
FRAMES, FACES = 60, 1000
INSTALL_TIMEOUT_S, RUN_TIMEOUT_S = 1800, 900


class PeerError(Exception):
    """A peer that cannot be installed, opened or run; the message is one sentence."""


def peers() -> list[str]:
    """Names of all peers: the files that say what they need."""
    return sorted(path.stem for path in HERE.glob("*.py") if "REQUIREMENTS" in constants(path.stem))


def constants(name: str) -> dict[str, Any]:
    """Constants of a peer's file, read without running it: its packages are not installed here."""
    tree = ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def environment(name: str, requirements: list[str], home: Path) -> Path:
    """Python of the peer's environment, made and filled when its requirements have changed; ours where it has none.

    Raises:
        PeerError: pip cannot install them.
    """
    if not requirements:
        return Path(sys.executable)
    folder = home / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "requirements.json"
    if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8")) != requirements:
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        done = subprocess.run(
            install, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=INSTALL_TIMEOUT_S
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
            raise PeerError(f"pip cannot install {' '.join(requirements)}: {errors[-1].removeprefix('ERROR: ')}")
        stamp.write_text(json.dumps(requirements), encoding="utf-8")
    return python


def installed_bytes(name: str, home: Path) -> int:
    """Size of a peer's environment on disk."""
    return sum(path.stat().st_size for path in (home / name).rglob("*") if path.is_file() and not path.is_symlink())


def pictures_for(task: str, clip: Path, data: Path | None, split: str | None) -> tuple[list[np.ndarray], list[str]]:
    """Frames of the clip at 720p, or labelled faces in an order that mixes the classes; BGR."""
    if task == "detection":
        capture, frames = cv2.VideoCapture(str(clip)), []
        while len(frames) < FRAMES:
            grabbed, image = capture.read()
            if not grabbed:
                break
            frames.append(cv2.resize(image, FRAME_WH))
        return frames, []
    if data is None:
        raise PeerError("a peer that classifies needs labelled faces: --data DIR [--split test]")
    from edge_fer.data.datasets import open_dataset

    samples = open_dataset(data, split)
    chosen = np.random.default_rng(0).permutation(len(samples))
    images = [samples.read(int(i)) for i in chosen]
    images = [cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image for image in images]
    return images, [samples.class_names[samples.labels[i]] for i in chosen]


def measure(
    name: str, pictures: Path, *, clip: Path | None, threads: int, label_all: bool, home: Path = VENVS
) -> dict[str, Any]:
    """One run of a peer in a fresh process.

    Args:
        pictures: an npz file; the first thousand are timed.
        clip: a video that a detector is run over, too.
        label_all: whether the pictures beyond the timed ones are given to it as well.

    Returns:
        the harness's answer.

    Raises:
        PeerError: one sentence.
    """
    about = constants(name)
    python = environment(name, about["REQUIREMENTS"], home)
    order = {
        "peer": str(HERE / f"{name}.py"),
        "packages": about["PACKAGES"],
        "pictures": str(pictures),
        "threads": threads,
        "timed": FACES,
        "label_all": label_all,
        "clip": None if clip is None or about["TASK"] != "detection" else str(clip.resolve()),
    }
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    changes = dict.fromkeys(variables, str(threads))
    if about["REQUIREMENTS"]:
        # What a package downloads belongs to its environment, and what was downloaded elsewhere does not count.
        kept = home / name / "home"
        kept.mkdir(parents=True, exist_ok=True)
        changes |= {"HOME": str(kept), "USERPROFILE": str(kept)}
    try:
        # -I: a peer's file is often called as its package, and must not be found in its place.
        done = subprocess.run(
            [str(python), "-I", str(HERE / "harness.py")],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=RUN_TIMEOUT_S,
            env={**os.environ, **changes},
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"it did not end within {RUN_TIMEOUT_S} s") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        words = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PeerError(f"it crashed (status {done.returncode}): {words}") from None
    if "failed" in answer:
        if answer["failed"] == "opening" and answer["refusal"] and "WEIGHTS_FROM" in about:
            raise PeerError(
                f"it fetches its weights from {about['WEIGHTS_FROM']} at its first start, which failed here "
                f"({answer['refusal']})"
            )
        raise PeerError(f"{answer['failed']} it failed: {answer['error']}")
    return answer


def hits(results: list[str | None], labels: list[str]) -> list[bool]:
    """Which labels a classifier got right, whatever it calls them; a class that the data lacks is a miss."""
    return [got is not None and canonical(got) == canonical(want) for got, want in zip(results, labels, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=peers())
    parser.add_argument("--data", type=Path, help="labelled faces, for peers that classify")
    parser.add_argument("--split")
    parser.add_argument("--clip", type=Path, default=CLIP, help="video for peers that detect; default: the demo")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--venvs", type=Path, default=VENVS)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    about = constants(arguments.name)
    try:
        images, labels = pictures_for(about["TASK"], arguments.clip, arguments.data, arguments.split)
        with tempfile.TemporaryDirectory(prefix="edge-fer-peer-", ignore_cleanup_errors=True) as folder:
            np.savez(Path(folder) / "pictures.npz", *images)
            answer = measure(
                arguments.name,
                Path(folder) / "pictures.npz",
                clip=arguments.clip,
                threads=arguments.threads,
                label_all=True,
                home=arguments.venvs,
            )
    except PeerError as failure:
        sys.exit(f"{arguments.name}: {failure}.")
    samples = np.asarray(answer.pop("samples_ns")) / 1e6
    results = answer.pop("results")
    figures = {
        "peer": arguments.name,
        "task": about["TASK"],
        "requirements": about["REQUIREMENTS"],
        "environment_mb": round(installed_bytes(arguments.name, arguments.venvs) / 1e6),
        "threads": arguments.threads,
        "pictures": len(images),
        **{f"p{q}_ms": round(float(np.percentile(samples, q)), 3) for q in (50, 90, 99)},
        **answer,
    }
    if labels:
        figures["top1"] = sum(hits(results, labels)) / len(labels)
    else:
        figures["found"] = sum(bool(boxes) for boxes in results) / len(results)
    text = json.dumps(figures, indent=2)
    print(text)  # noqa: T201 (a script, not the package)
    if arguments.json is not None:
        with atomic_file(arguments.json) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
