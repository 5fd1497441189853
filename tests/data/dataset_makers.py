"""Small datasets in the exact layouts of the originals, made of drawn pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

FERPLUS_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def pattern(seed: int, height: int = 48, width: int = 48, colour: bool = False) -> np.ndarray:
    """A smooth random picture; two seeds give two pictures that no perceptual hash takes for one."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (7, 7, 3) if colour else (7, 7), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def put(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def csv_row(emotion: int, usage: str, face: np.ndarray) -> str:
    return f"{emotion},{' '.join(map(str, face.ravel()))},{usage}"


def make_fer2013_csv(path: Path, rows: list[tuple[int, str]]) -> Path:
    """``fer2013.csv`` whose row n shows ``pattern(n)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["emotion,pixels,Usage", *(csv_row(emotion, usage, pattern(n)) for n, (emotion, usage) in enumerate(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


def make_ferplus_csv(path: Path, rows: list[tuple[str, str, tuple[int, ...]]]) -> Path:
    """``fer2013new.csv`` from (Usage, image name, ten votes)."""
    lines = [FERPLUS_HEADER, *(f"{usage},{name},{','.join(map(str, votes))}" for usage, name, votes in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\r\n".join(lines) + "\r\n")
    return path


def make_rafdb(root: Path, rows: list[tuple[str, int]], first_seed: int = 1000) -> Path:
    """RAF-DB's basic part: aligned 100x100 pictures, original photographs, and the list with labels from 1."""
    lines = []
    for n, (name, label) in enumerate(rows):
        lines.append(f"{name} {label}")
        put(root / "Image" / "aligned" / name.replace(".jpg", "_aligned.jpg"), pattern(first_seed + n, 100, 100, True))
        put(root / "Image" / "original" / name, pattern(first_seed + n, 180, 240, True))
    (root / "EmoLabel").mkdir(parents=True, exist_ok=True)
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    return root


def make_kdef(root: Path, names: list[str], first_seed: int = 3000) -> Path:
    """KDEF's tree: a folder per person and session, 562x762 colour JPEGs (made smaller here)."""
    for n, name in enumerate(names):
        put(root / name[:4] / f"{name}.JPG", pattern(first_seed + n, 381, 281, True))
    return root


def make_yolo(root: Path, rows: list[tuple[str, str, str]], names: str, first_seed: int = 5000) -> Path:
    """AffectNet in YOLO format from (split, file name, label lines); pictures are 96x96 PNG."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n{names}\n")
    for n, (split, name, lines) in enumerate(rows):
        put(root / split / "images" / name, pattern(first_seed + n, 96, 96, True))
        label = root / split / "labels" / Path(name).with_suffix(".txt").name
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(lines)
    return root
