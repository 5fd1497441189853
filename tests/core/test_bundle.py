"""A bundle is what its manifest says, or it is refused with one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_fer.core.bundle import Bundle, find_bundle, open_bundle, read_canary
from edge_fer.core.errors import BundleError, UsageError


@pytest.fixture
def copy(shipped: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped.path, tmp_path / "bundle"))


def edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def test_the_shipped_bundle_is_whole(shipped: Bundle) -> None:
    assert shipped.manifest.model.labels == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert {v.precision for v in shipped.manifest.variants} >= {"fp32", "int8"}
    assert shipped.manifest.calibration is not None
    assert len(shipped.canary().images_bgr) >= 2


def test_a_truncated_file_is_named(copy: Path, shipped: Bundle) -> None:
    name = shipped.variant("fp32").file
    (copy / name).write_bytes((copy / name).read_bytes()[:-100])
    with pytest.raises(BundleError, match=name):
        open_bundle(copy)


def test_a_file_edited_at_the_same_length_is_named(copy: Path, shipped: Bundle) -> None:
    name = shipped.variant("int8").file
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match="damaged or was edited"):
        open_bundle(copy)


def test_a_missing_file_is_named(copy: Path, shipped: Bundle) -> None:
    (copy / shipped.manifest.canary.file).unlink()
    with pytest.raises(BundleError, match="is missing"):
        open_bundle(copy)


def test_a_manifest_cannot_name_files_outside(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][0]["name"] = "../../etc/passwd"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"files\.0\.name"):
        open_bundle(copy)


def test_unknown_keys_of_a_manifest_are_errors(copy: Path) -> None:
    edit(copy, acuracy=[])
    with pytest.raises(BundleError, match="acuracy"):
        open_bundle(copy)


def test_a_later_format_is_refused(copy: Path) -> None:
    edit(copy, format=2)
    with pytest.raises(BundleError, match="format 2, which a newer edge-fer wrote; this one reads format 1"):
        open_bundle(copy)


def test_a_folder_without_manifest_says_how_to_make_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="edge-fer compile"):
        open_bundle(tmp_path)


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match="edge-fer-compact"):
        find_bundle("no-such-model")


def test_a_precision_that_is_not_there_lists_what_is(shipped: Bundle) -> None:
    with pytest.raises(UsageError, match="it has fp32"):
        shipped.variant("int4")


def test_a_canary_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "canary.npz"
    np.savez(path, images_bgr=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BundleError, match="cannot be read"):
        read_canary(path)


def test_a_canary_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "canary.npz"
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(BundleError, match="cannot be read"):
        read_canary(path)
