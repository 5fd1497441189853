"""Every installed backend in every precision: same function, own buffers, honest refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_fer.backends.canary import canary_gap
from edge_fer.backends.choose import choose
from edge_fer.backends.registry import BACKENDS, installed_backends, open_built_engine, open_engine
from edge_fer.core.bundle import Bundle, Canary
from edge_fer.core.engine import Engine
from edge_fer.core.errors import BundleError, UsageError

INSTALLED = [status for status in installed_backends() if status.installed]
PAIRS = [(status.name, precision) for status in INSTALLED for precision in status.precisions]


def _runnable(shipped: Bundle, precision: str) -> None:
    form = "int8" if precision == "int8" else "fp32"
    assert any(v.precision == form for v in shipped.manifest.variants)


def run(engine: Engine, batch: np.ndarray) -> np.ndarray:
    slot = engine.slots[0]
    slot.inputs["input"][: len(batch)] = batch
    engine.submit(slot, len(batch))
    engine.wait(slot)
    return np.array(slot.outputs["logits"][: len(batch)])


def test_both_cpu_backends_are_installed_for_the_tests() -> None:
    assert {status.name for status in INSTALLED} >= {"onnxruntime", "openvino"}


def test_what_cannot_run_here_says_why_in_one_sentence() -> None:
    for status in installed_backends():
        assert status.installed == bool(status.precisions)
        assert status.detail.count(". ") <= 1, status.detail
    assert {status.name for status in installed_backends()} == set(BACKENDS)


@pytest.mark.parametrize(("backend", "precision"), PAIRS)
def test_the_canary_fits(shipped: Bundle, backend: str, precision: str) -> None:
    _runnable(shipped, precision)
    with open_engine(shipped, backend=backend, precision=precision) as engine:
        gap = canary_gap(engine, shipped.canary())
        assert gap <= shipped.manifest.canary.tolerance[precision]


@pytest.mark.parametrize(("backend", "precision"), PAIRS)
def test_a_batch_gives_what_its_rows_give_alone_and_touches_no_other_row(
    shipped: Bundle, backend: str, precision: str
) -> None:
    rng = np.random.default_rng(7)
    batch = rng.normal(size=(8, *shipped.manifest.model.input_shape)).astype(np.float32)
    with open_engine(shipped, backend=backend, precision=precision) as engine:
        together = run(engine, batch)
        engine.slots[0].outputs["logits"][:] = np.nan
        three = run(engine, batch[:3])
        assert np.isnan(engine.slots[0].outputs["logits"][3:]).all()
        alone = np.concatenate([run(engine, batch[i : i + 1]) for i in range(8)])
    scale = 0.05 if precision in ("bf16", "fp16") else 1e-4
    np.testing.assert_allclose(together, alone, atol=scale)
    np.testing.assert_allclose(three, alone[:3], atol=scale)


@pytest.mark.parametrize("backend", sorted(status.name for status in INSTALLED))
def test_slots_do_not_share_memory(shipped: Bundle, backend: str) -> None:
    with open_engine(shipped, backend=backend, precision="fp32", slots=2) as engine:
        first, second = engine.slots
        first.inputs["input"][:] = 0.0
        second.inputs["input"][:] = 1.0
        engine.submit(first, 1)
        engine.wait(first)
        kept = np.array(first.outputs["logits"][0])
        engine.submit(second, 1)
        engine.wait(second)
        np.testing.assert_array_equal(first.outputs["logits"][0], kept)
        assert not np.array_equal(second.outputs["logits"][0], kept)


@pytest.mark.parametrize("n", [0, 9, -1])
def test_a_batch_outside_the_slot_is_refused(shipped: Bundle, n: int) -> None:
    with (
        open_engine(shipped, backend="onnxruntime", precision="fp32") as engine,
        pytest.raises(ValueError, match=r"1\.\.8"),
    ):
        engine.submit(engine.slots[0], n)


def test_the_second_opening_builds_nothing(shipped: Bundle, tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        open_engine(shipped, backend="openvino", precision="int8", cache=tmp_path, on_build=told.append).close()
    assert len(told) == 1


def _built(shipped: Bundle, cache: Path) -> Path:
    open_engine(shipped, backend="onnxruntime", precision="int8", cache=cache).close()
    return next(path for path in cache.iterdir() if path.is_dir())


def test_a_damaged_cache_entry_is_rebuilt(shipped: Bundle, tmp_path: Path) -> None:
    folder = _built(shipped, tmp_path)
    (folder / "model.ort.onnx").write_bytes(b"")
    told: list[str] = []
    open_engine(shipped, backend="onnxruntime", precision="int8", cache=tmp_path, on_build=told.append).close()
    assert len(told) == 1


def test_an_engine_edited_by_hand_is_refused(shipped: Bundle, tmp_path: Path) -> None:
    folder = _built(shipped, tmp_path)
    path = folder / "model.ort.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="damaged or was edited"):
        open_built_engine(folder)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [("device", "CPU of another machine", "this machine is"), ("backend_version", "0.0.1", "is installed")],
)
def test_an_engine_of_another_machine_or_version_is_refused(
    shipped: Bundle, tmp_path: Path, field: str, value: str, expected: str
) -> None:
    folder = Path(shutil.copytree(_built(shipped, tmp_path / "cache"), tmp_path / "engine"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[field] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=expected):
        open_built_engine(folder)


def test_swapped_pixels_and_foreign_logits_fail_the_canary(shipped: Bundle) -> None:
    canary = shipped.canary()
    dark = Canary((canary.images_bgr * 0.5).astype(np.uint8), canary.logits)
    with open_engine(shipped, backend="onnxruntime", precision="fp32") as engine:
        assert canary_gap(engine, dark) > shipped.manifest.canary.tolerance["fp32"]


def test_an_unknown_backend_and_a_precision_without_kernels_are_usage_errors(shipped: Bundle) -> None:
    with pytest.raises(UsageError, match="Unknown backend"):
        open_engine(shipped, backend="coreml", precision="fp32")
    with pytest.raises(UsageError, match="no bf16 kernels"):
        open_engine(shipped, backend="onnxruntime", precision="bf16")


def test_auto_times_every_candidate_once_and_remembers(shipped: Bundle, tmp_path: Path) -> None:
    steps: list[str] = []
    first = choose(shipped, precision="int8", cache=tmp_path, on_step=steps.append)
    second = choose(shipped, precision="int8", cache=tmp_path, on_step=steps.append)
    assert first == second
    assert len(steps) == 2
    medians = [c.median_us for c in first.candidates if c.median_us is not None]
    assert medians == sorted(medians)
    assert first.best.backend in first.reason()


def test_auto_with_one_possibility_times_nothing(shipped: Bundle, tmp_path: Path) -> None:
    choice = choose(shipped, backend="onnxruntime", precision="int8", cache=tmp_path)
    assert (choice.best.backend, choice.best.precision) == ("onnxruntime", "int8")
    assert list(tmp_path.iterdir()) == []
