"""``edge-fer verify`` repeats the certificate, and notices when a bundle does something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.core.bundle import Bundle, Canary, record_files, write_canary
from edge_fer.core.errors import BundleError


def test_the_shipped_bundle_holds_on_every_engine() -> None:
    done = CliRunner().invoke(app, ["verify"])
    assert done.exit_code == 0, done.output
    for engine in ("onnxruntime fp32", "onnxruntime int8", "openvino fp32", "openvino int8"):
        assert f"{engine} canary" in done.output
    assert "failed" not in done.output


def test_a_bundle_whose_network_is_another_is_caught_although_its_hashes_fit(shipped: Bundle, tmp_path: Path) -> None:
    """Somebody swapped the weights and wrote fresh hashes; only running it can tell."""
    folder = Path(shutil.copytree(shipped.path, tmp_path / "bundle"))
    canary = shipped.canary()
    other = Canary(canary.images_bgr, {name: np.roll(logits, 1, axis=1) for name, logits in canary.logits.items()})
    write_canary(folder / shipped.manifest.canary.file, other)
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [record["name"] for record in manifest["files"]]
    manifest["files"] = [record.model_dump() for record in record_files(folder, names)]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = CliRunner().invoke(app, ["verify", str(folder)])
    assert isinstance(done.exception, BundleError)
    assert "does not do here" in str(done.exception)


@pytest.mark.slow
def test_accuracy_is_repeated_on_the_certificate_s_faces(fer2013: Path) -> None:
    done = CliRunner().invoke(app, ["verify", "--data", str(fer2013), "--split", "test"])
    assert done.exit_code == 0, done.output
    assert "certified" in done.output
