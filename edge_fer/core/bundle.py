"""Bundles on disk: open, check, and find the right ONNX file. Needs neither torch nor any backend."""

from __future__ import annotations

import difflib
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BundleError, UsageError
from edge_fer.core.files import atomic_file, inside, sha256_file
from edge_fer.core.manifest import MANIFEST, BundleManifest, FileRecord, Variant, read_manifest

DEFAULT_MODEL = "edge-fer-compact"
DEFAULT_DETECTOR = "edge-fer-face"


@dataclass(frozen=True)
class Canary:
    """Face crops *before* preprocessing and the logits that the network must give for them.

    Storing raw BGR pixels means that a wrong colour order, mean or resize is caught as surely as wrong weights.

    Attributes:
        images_bgr: uint8 (k, H, W, 3).
        logits: per precision, float32 (k, classes), or a detector's (k, 15, places).
    """

    images_bgr: NDArray[np.uint8]
    logits: dict[str, NDArray[np.float32]]


def write_canary(path: Path, canary: Canary) -> None:
    """Write one ``.npz`` of plain arrays."""
    with atomic_file(path) as temporary:
        arrays: dict[str, Any] = {"images_bgr": canary.images_bgr}
        arrays |= {f"logits_{precision}": logits for precision, logits in canary.logits.items()}
        np.savez_compressed(temporary, **arrays)


def read_canary(path: Path) -> Canary:
    """Read what :func:`write_canary` wrote; never unpickles.

    Raises:
        BundleError: missing, damaged, or of the wrong shapes.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            images = np.asarray(arrays["images_bgr"], dtype=np.uint8)
            logits = {
                name.removeprefix("logits_"): np.asarray(arrays[name], dtype=np.float32)
                for name in arrays.files
                if name.startswith("logits_")
            }
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"The canary {path} cannot be read: {error}.", fix="Compile it again, or copy the folder again."
        ) from None
    if images.ndim != 4 or images.shape[3] != 3 or not logits or any(len(v) != len(images) for v in logits.values()):
        raise BundleError(
            f"The canary {path} has arrays of the wrong shape.", fix="Compile it again, or copy the folder again."
        )
    return Canary(images, logits)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. ``sha256`` identifies its contents: it covers every file's hash and the contract."""

    path: Path
    manifest: BundleManifest

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256(self.manifest.model.model_dump_json().encode())
        for record in sorted(self.manifest.files, key=lambda r: r.name):
            digest.update(f"{record.name}:{record.sha256}\n".encode())
        return digest.hexdigest()

    def record(self, name: str) -> FileRecord:
        for record in self.manifest.files:
            if record.name == name:
                return record
        raise BundleError(
            f"{self.path}: the manifest names {name!r} but has no record of the file.",
            fix="Compile it again, or copy the folder again.",
        )

    def file(self, name: str) -> Path:
        """Path of a recorded file, checked to lie inside the bundle."""
        self.record(name)
        return inside(self.path, name)

    def variant(self, precision: str, dialect: str = "cpu") -> Variant:
        """The ONNX form for a precision; ``dialect`` matters for int8 only.

        Raises:
            UsageError: the bundle has no such form; the message says which it has.
        """
        for variant in self.manifest.variants:
            if variant.precision == precision and variant.dialect in ("any", dialect):
                return variant
        forms = ", ".join(
            v.precision if v.dialect == "any" else f"{v.precision} ({v.dialect})" for v in self.manifest.variants
        )
        raise UsageError(
            f"The bundle {self.path} has no {precision} form for the {dialect} dialect; it has {forms}.",
            fix=f"Compile it: edge-fer compile CHECKPOINT --precision {precision}"
            + (" --trt-dialect" if (precision, dialect) == ("int8", "trt") else ""),
        )

    def canary(self) -> Canary:
        return read_canary(self.file(self.manifest.canary.file))


def open_bundle(path: Path) -> Bundle:
    """Open a bundle and check the size and hash of every file.

    Raises:
        BundleError: no bundle, a file is missing, or its bytes are not those that the manifest records.
    """
    bundle = Bundle(path, read_manifest(path, BundleManifest))
    check_files(path, bundle.manifest.files)
    for variant in bundle.manifest.variants:
        bundle.record(variant.file)
    bundle.record(bundle.manifest.canary.file)
    return bundle


def check_files(folder: Path, records: tuple[FileRecord, ...]) -> None:
    """Compare a folder's files with their records.

    Raises:
        BundleError: names the first file that is missing or differs.
    """
    for record in records:
        path = inside(folder, record.name)
        if not path.is_file():
            raise BundleError(f"{folder} is incomplete: {record.name} is missing.", fix="Compile it again.")
        if path.stat().st_size != record.bytes or sha256_file(path) != record.sha256:
            raise BundleError(
                f"{path} is not the file that the manifest records: it is damaged or was edited.",
                fix="Compile it again, or copy the folder again.",
            )


def record_files(folder: Path, names: list[str]) -> tuple[FileRecord, ...]:
    """Sizes and hashes of files that lie in ``folder``."""
    return tuple(
        FileRecord(name=name, bytes=(folder / name).stat().st_size, sha256=sha256_file(folder / name)) for name in names
    )


def find_bundle(name_or_path: str | None = None) -> Path:
    """Folder of a bundle: a path, or the name of a shipped one (default: the default model).

    Raises:
        UsageError: neither; the message lists the shipped names.
        BundleError: it is a file.
    """
    package = Path(__file__).resolve().parents[1]
    homes = [package / "engines", package.parent / "engines"]
    if name_or_path is not None and Path(name_or_path).is_dir():
        return Path(name_or_path)
    name = name_or_path or DEFAULT_MODEL
    for home in homes:
        if "/" not in name and "\\" not in name and (home / name / "manifest.json").is_file():
            return home / name
    shipped = sorted({p.parent.name for home in homes for p in home.glob("*/manifest.json")})
    if Path(name).is_file():
        raise BundleError(
            f"{name} is a file; a bundle is a folder with a {MANIFEST}.",
            fix="Make one from a checkpoint: edge-fer compile CHECKPOINT",
        )
    close = difflib.get_close_matches(name, shipped, n=1)
    raise UsageError(
        f"No bundle {name!r}: neither a folder nor the name of a shipped model.",
        fix=f"Did you mean {close[0]}?" if close else f"Shipped: {', '.join(shipped) or 'none'}.",
    )
