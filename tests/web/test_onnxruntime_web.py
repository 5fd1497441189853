"""The fourth consumer of the ``cpu`` dialect: the file that ONNX Runtime and OpenVINO run, in a browser's engine.

``npm ci`` installs onnxruntime-web once into a cache folder, with versions and integrity hashes from the lockfile here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from numpy.typing import NDArray

from edge_fer.backends.registry import open_onnx
from edge_fer.compile.canary_faces import canary_images, face_batch
from edge_fer.core.bundle import Bundle, find_bundle, open_bundle
from edge_fer.core.files import atomic_folder
from edge_fer.data.datasets import open_dataset
from edge_fer.evaluate.predict import fill

HERE = Path(__file__).parent
NODE, NPM = shutil.which("node"), shutil.which("npm")
NEEDED = ("package.json", "package-lock.json")
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "network request")
FACES = 224
"""How many faces of the dataset: WebAssembly has no VNNI."""

Logits = NDArray[np.float32]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(NODE is None or NPM is None, reason="node and npm are needed"),
]


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder whose ``node_modules`` holds onnxruntime-web, in the versions of the lockfile."""
    home = Path(os.environ.get("EDGE_FER_WEB_CACHE") or platformdirs.user_cache_path("edge-fer"))
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in NEEDED)).hexdigest()
    folder = home / f"onnxruntime-web-{digest[:16]}"
    if (folder / "node_modules" / "onnxruntime-web" / "package.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as fresh:
        for name in NEEDED:
            shutil.copy(HERE / name, fresh / name)
        # Nothing of these packages needs to be built, so none of their scripts is run.
        command = [str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode and any(word in done.stderr for word in UNREACHABLE):
            pytest.skip(f"the npm registry cannot be reached: {done.stderr.strip().splitlines()[0]}")
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(find_bundle(None))


@dataclass(frozen=True)
class Web:
    """What the WebAssembly engine gave."""

    logits: Logits
    report: dict[str, object]


def run_in_web(modules: Path, model: Path, inputs: NDArray[np.float32], folder: Path) -> Web:
    (folder / "inputs.f32").write_bytes(np.ascontiguousarray(inputs).tobytes())
    arguments = [str(modules), str(model), str(folder / "inputs.f32"), str(folder / "logits.f32")]
    done = subprocess.run(
        [str(NODE), str(HERE / "run_onnx.mjs"), *arguments, *map(str, inputs.shape)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    logits = np.frombuffer((folder / "logits.f32").read_bytes(), np.float32)
    return Web(logits.reshape(len(inputs), int(report["classes"])), report)


def run_natively(bundle: Bundle, precision: str, inputs: NDArray[np.float32]) -> Logits:
    path = bundle.file(bundle.variant(precision, "cpu").file)
    parts = []
    with open_onnx(
        path, bundle.manifest.classifier, backend="onnxruntime", precision=precision, max_batch=8, threads=1
    ) as engine:
        slot = engine.slots[0]
        for start in range(0, len(inputs), 8):
            batch = inputs[start : start + 8]
            slot.inputs["input"][: len(batch)] = batch
            engine.submit(slot, len(batch))
            engine.wait(slot)
            parts.append(slot.outputs["logits"][: len(batch)].copy())
    return np.concatenate(parts)


def tolerance(bundle: Bundle, precision: str) -> float:
    """What the bundle itself allows an engine's logits to differ from the stored ones."""
    return float(bundle.manifest.canary.tolerance[precision])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_browser_gives_the_canarys_logits(modules: Path, bundle: Bundle, precision: str, tmp_path: Path) -> None:
    inputs = face_batch(canary_images(), bundle.manifest.classifier.preprocess)
    web = run_in_web(modules, bundle.file(bundle.variant(precision, "cpu").file), inputs, tmp_path)
    assert web.report["threads"] == 1
    stored = bundle.canary().logits[precision]
    assert web.logits.shape == stored.shape
    assert np.isfinite(web.logits).all()
    assert np.abs(web.logits - stored).max() <= tolerance(bundle, precision)
    native = run_natively(bundle, precision, inputs)
    assert np.abs(web.logits - native).max() <= tolerance(bundle, precision)
    assert np.array_equal(web.logits.argmax(axis=1), native.argmax(axis=1))


@pytest.mark.parametrize(("precision", "agreement"), [("fp32", 1.0), ("int8", 0.99)])
def test_a_browser_gives_the_labels_that_the_native_engine_gives(
    modules: Path, bundle: Bundle, precision: str, agreement: float, tmp_path: Path
) -> None:
    home = os.environ.get("EDGE_FER_DATA")
    if not home or not (Path(home) / "fer2013").is_dir():
        pytest.skip("EDGE_FER_DATA names no folder with fer2013/")
    samples = open_dataset(Path(home) / "fer2013", "test")
    samples = samples.select(np.linspace(0, len(samples) - 1, FACES).astype(np.int64))
    spec = bundle.manifest.classifier
    inputs = np.empty((len(samples), *spec.input_shape), np.float32)
    fill(inputs, samples, 0, len(samples), spec.preprocess)
    web = run_in_web(modules, bundle.file(bundle.variant(precision, "cpu").file), inputs, tmp_path)
    native = run_natively(bundle, precision, inputs)
    same = float((web.logits.argmax(axis=1) == native.argmax(axis=1)).mean())
    assert same >= agreement, f"{same:.2%} of {len(inputs)} faces have the same label"
    assert np.abs(web.logits - native).mean() <= tolerance(bundle, precision) / 10


def test_the_lockfile_names_no_machine_and_hashes_every_package() -> None:
    lock = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert "node_modules/onnxruntime-web" in packages
    for name, entry in packages.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name
