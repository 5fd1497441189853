"""What other packages cost on this machine: ``python benchmarks/peers/run.py NAME`` (needs edge-fer installed).

Each peer is a file beside this one. It names its pip requirements, which are installed into a virtual environment of
its own, because these packages exclude each other and edge-fer; and it offers ``open_peer(threads)``, which returns one
function. The peer's process gets decoded pictures only, so that neither decoding nor our code is in its times.

* ``TASK = "detection"``: ``find(image_bgr) -> list of (left, top, right, bottom)``
* ``TASK = "classification"``: ``label(face_bgr) -> name of the class`` or ``None``

Figures are milliseconds a picture, back to back, after a warm-up; ``clip_fps`` is a detector's with decoding, over the
clip as it is; ``cold_start_s`` runs from before the peer's imports
to the end of its first call. Weights that a peer fetches by itself come from the internet at its first start.
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
FRAME_WH = (1280, 720)
FRAMES, FACES = 60, 1000
INSTALL_TIMEOUT_S, RUN_TIMEOUT_S = 1800, 900


def peers() -> list[str]:
    """Names of all peers."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("run", "harness"))


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
    """Python of the peer's environment, made and filled when its requirements have changed."""
    folder = home / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "requirements.json"
    if not stamp.is_file() or json.loads(stamp.read_text()) != requirements:
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(install, check=True, timeout=INSTALL_TIMEOUT_S)
        stamp.write_text(json.dumps(requirements))
    return python


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
        sys.exit("A peer that classifies needs labelled faces: --data DIR [--split test]")
    from edge_fer.data.datasets import open_dataset

    samples = open_dataset(data, split)
    chosen = np.random.default_rng(0).permutation(len(samples))[:FACES]
    images = [samples.read(int(i)) for i in chosen]
    images = [cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image for image in images]
    return images, [samples.class_names[samples.labels[i]] for i in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=peers())
    parser.add_argument("--data", type=Path, help="labelled faces, for peers that classify")
    parser.add_argument("--split")
    parser.add_argument("--clip", type=Path, default=CLIP, help="video for peers that detect; default: the demo")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--venvs", type=Path, default=Path.home() / ".cache" / "edge-fer" / "peers")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    about = constants(arguments.name)
    python = environment(arguments.name, about["REQUIREMENTS"], arguments.venvs)
    size = sum(p.stat().st_size for p in (arguments.venvs / arguments.name).rglob("*") if p.is_file())
    images, labels = pictures_for(about["TASK"], arguments.clip, arguments.data, arguments.split)
    with tempfile.TemporaryDirectory(prefix="edge-fer-peer-") as folder:
        np.savez(Path(folder) / "pictures.npz", *images)
        order = {
            "peer": str(HERE / f"{arguments.name}.py"),
            "pictures": str(Path(folder) / "pictures.npz"),
            "threads": arguments.threads,
            "clip": str(arguments.clip.resolve()) if about["TASK"] == "detection" else None,
        }
        limits = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(order["threads"])
        )
        done = subprocess.run(
            [str(python), str(HERE / "harness.py")],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=RUN_TIMEOUT_S,
            env={**os.environ, **limits, "PYTHONPATH": ""},
        )
    if done.returncode:
        sys.exit(f"{arguments.name} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    samples = answer.pop("samples_ms")
    results = answer.pop("results")
    figures = {
        "peer": arguments.name,
        "task": about["TASK"],
        "requirements": about["REQUIREMENTS"],
        "environment_mb": round(size / 1e6),
        "threads": arguments.threads,
        "pictures": len(images),
        **{f"p{q}_ms": round(float(np.percentile(samples, q)), 3) for q in (50, 90, 99)},
        **answer,
    }
    if labels:
        right = [canonical(str(got)) == canonical(want) for got, want in zip(results, labels, strict=True)]
        figures["top1"] = sum(right) / len(right)
    else:
        figures["found"] = sum(bool(boxes) for boxes in results) / len(results)
    text = json.dumps(figures, indent=2)
    print(text)  # noqa: T201 (a script, not the package)
    if arguments.json is not None:
        with atomic_file(arguments.json) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
