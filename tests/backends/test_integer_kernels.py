"""Convolutions of an int8 engine get the faster of ONNX Runtime's two kernels, and nothing else about them changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.backends.onnxruntime import kernels
from edge_fer.backends.onnxruntime.build import as_stored
from edge_fer.backends.onnxruntime.kernels import LATE, convolutions, fastest_kernels, with_general_product
from edge_fer.backends.protobuf import encode, fields
from edge_fer.core.bundle import Bundle
from edge_fer.core.engine import INPUT, OUTPUT

_NUMBERS = st.integers(min_value=1, max_value=2**29 - 1)


@pytest.fixture(scope="module")
def optimised(shipped: Bundle, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The shipped int8 graph after ONNX Runtime's own optimisations."""
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    form = shipped.file(shipped.variant("int8", "cpu").file)
    ort.InferenceSession(str(form), options, providers=["CPUExecutionProvider"])
    return path.read_bytes()


def _session(model: bytes) -> ort.InferenceSession:
    return ort.InferenceSession(model, as_stored(ort), providers=["CPUExecutionProvider"])


def test_both_kernels_give_the_same_logits(shipped: Bundle, optimised: bytes) -> None:
    names = convolutions(optimised)
    assert len(names) > 5
    symmetric, general = _session(optimised), _session(with_general_product(optimised, names))
    assert general.get_overridable_initializers()
    assert [value.name for value in general.get_inputs()] == [INPUT]
    batch = np.random.default_rng(3).normal(size=(4, *shipped.manifest.model.input_shape)).astype(np.float32)
    answers = [session.run([OUTPUT], {INPUT: batch})[0] for session in (symmetric, general)]
    np.testing.assert_array_equal(*answers)


def test_only_the_zero_points_of_the_named_layers_change(optimised: bytes) -> None:
    chosen = convolutions(optimised)[1:3]
    before, after = (
        onnx.load_from_string(optimised).graph,
        onnx.load_from_string(with_general_product(optimised, chosen)).graph,
    )
    changed = {old.name for old, new in zip(before.node, after.node, strict=True) if old != new}
    assert changed == set(chosen)
    for old, new in zip(before.node, after.node, strict=True):
        assert [name.removesuffix(LATE) for name in new.input] == list(old.input)
    assert list(after.initializer)[: len(before.initializer)] == list(before.initializer)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in after.initializer}
    added = [name for name in stored if name.endswith(LATE)]
    assert added
    for name in added:
        np.testing.assert_array_equal(stored[name], stored[name.removesuffix(LATE)])
    assert with_general_product(optimised, ()) == optimised


def test_a_layer_keeps_its_kernel_unless_the_other_is_clearly_faster(
    optimised: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(optimised)
    fast, same, slow, unseen, *_ = convolutions(optimised)
    times = [{fast: 100.0, same: 100.0, slow: 100.0, unseen: 100.0}, {fast: 50.0, same: 99.0, slow: 200.0}]
    monkeypatch.setattr(kernels, "_times", lambda *_: times)
    assert fastest_kernels(ort, path, lambda: as_stored(ort), (1, 48, 48)) == (fast,)
    late = {node.name for node in onnx.load(path).graph.node if any(name.endswith(LATE) for name in node.input)}
    assert late == {fast}


def test_every_layer_is_timed_under_its_name(shipped: Bundle, optimised: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(optimised)
    shape = shipped.manifest.model.input_shape
    found = kernels._times(ort, (optimised,), lambda: as_stored(ort), shape)
    assert set(convolutions(optimised)) <= set(found[0])
    assert min(found[0].values()) >= 0


@given(st.lists(st.tuples(_NUMBERS, st.one_of(st.binary(max_size=300), st.integers(min_value=0, max_value=2**64 - 1)))))
def test_fields_are_read_as_they_were_written(parts: list[tuple[int, bytes | int]]) -> None:
    written = b"".join(encode(number, value) for number, value in parts)
    read = list(fields(memoryview(written)))
    assert [(f.number, f.value if isinstance(f.value, int) else bytes(f.value)) for f in read] == parts
    assert b"".join(bytes(f.raw) for f in read) == written
