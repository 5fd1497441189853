"""Bias correction takes back the shift that rounding gives the mean of a layer's outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fer.compile.bias_correction import correct_biases, measure_shifts
from edge_fer.compile.calibrate import choose_ranges, collect, open_session, run_logits
from edge_fer.compile.graph import Graph
from edge_fer.compile.plan import plan_quantisation
from edge_fer.compile.quantize_int8 import quantize_int8
from edge_fer.core.errors import CalibrationError


def thresholds_of(model, inputs):
    plan = plan_quantisation(Graph(model))
    stats = collect(model, plan.measured, lambda: iter([inputs]))
    return plan, {name: r.threshold for name, r in choose_ranges(stats, plan, "minmax").items()}


def biased_network() -> onnx.ModelProto:
    """A convolution whose small weights all round down next to one large one, so that its mean output shifts; a second
    one makes the logits and stays in fp32."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.0030, 0.0034, (4, 2, 3, 3)).astype(np.float32)
    weight[:, 0, 0, 0] = 1.0
    dense = rng.normal(size=(3, 4, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "a.weight", "a.bias"], ["a"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["a.relu"], "a.relu"),
        helper.make_node("GlobalAveragePool", ["a.relu"], ["pool"], "pool"),
        helper.make_node("Conv", ["pool", "b.weight"], ["b"], "b"),
        helper.make_node("Flatten", ["b"], ["logits"], "flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "biased",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 2, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(weight, "a.weight"),
            numpy_helper.from_array(np.full(4, 0.5, np.float32), "a.bias"),
            numpy_helper.from_array(dense, "b.weight"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_known_shift_is_found_and_mended():
    model = biased_network()
    inputs = np.random.default_rng(1).uniform(0, 1, (32, 2, 8, 8)).astype(np.float32)
    plan, thresholds = thresholds_of(model, inputs)
    assert "a" in plan.layers
    shifts = measure_shifts(model, plan, thresholds, lambda: iter([inputs]))
    reference = run_logits(open_session(model, 1), inputs)
    plain = run_logits(open_session(quantize_int8(model, plan, thresholds, "cpu"), 1), inputs)
    corrected = correct_biases(model, shifts)
    mended = run_logits(open_session(quantize_int8(corrected, plan, thresholds, "cpu"), 1), inputs)
    assert np.abs(shifts["a"]).min() > 0.005
    assert np.abs((mended - reference).mean(axis=0)).max() < 0.2 * np.abs((plain - reference).mean(axis=0)).max()


def test_shifts_do_not_depend_on_how_faces_are_batched(tiny_onnx, tiny_inputs):
    plan, thresholds = thresholds_of(tiny_onnx, tiny_inputs)
    one = measure_shifts(tiny_onnx, plan, thresholds, lambda: iter([tiny_inputs]))
    many = measure_shifts(tiny_onnx, plan, thresholds, lambda: iter(np.array_split(tiny_inputs, 5)))
    assert set(one) == set(plan.layers)
    for name, shift in one.items():
        assert shift == pytest.approx(many[name], abs=1e-4)


def test_the_shift_is_the_mean_difference_of_the_layer_itself(tiny_onnx, tiny_inputs):
    """The first layer reads the network's input, so its shift is also that of the int8 network at this place."""
    plan, thresholds = thresholds_of(tiny_onnx, tiny_inputs)
    first = next(node for node in tiny_onnx.graph.node if node.name in plan.layers)
    shifts = measure_shifts(tiny_onnx, plan, thresholds, lambda: iter([tiny_inputs]))

    def mean_of(model):
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        watched.graph.output.append(onnx.ValueInfoProto(name=first.output[0]))
        values = open_session(watched, 1, literal=True).run([first.output[0]], {"input": tiny_inputs})[0]
        return values.astype(np.float64).mean(axis=(0, 2, 3))

    quantised = quantize_int8(tiny_onnx, plan, thresholds, "cpu")
    difference = mean_of(tiny_onnx) - mean_of(quantised) - shifts[first.name]
    # The stored bias is rounded to its own 32-bit grid, which is no part of the shift.
    assert (np.abs(difference) <= 0.5 * Graph(quantised).array(f"{first.name}.bias.scale") + 1e-5).all()


def test_only_biases_change_and_no_shift_changes_nothing(tiny_onnx):
    same = correct_biases(tiny_onnx, {})
    assert [n.name for n in same.graph.node] == [n.name for n in tiny_onnx.graph.node]
    layer = plan_quantisation(Graph(tiny_onnx)).layers[0]
    channels = len(Graph(tiny_onnx).array(f"{layer}.bias"))
    changed = Graph(correct_biases(tiny_onnx, {layer: np.full(channels, 0.25)}))
    node = next(node for node in changed.nodes if node.name == layer)
    assert changed.array(node.input[2]) == pytest.approx(Graph(tiny_onnx).array(f"{layer}.bias") + 0.25)
    assert np.array_equal(changed.array(node.input[1]), Graph(tiny_onnx).array(node.input[1]))


def test_no_faces_are_refused(tiny_onnx, tiny_inputs):
    plan, thresholds = thresholds_of(tiny_onnx, tiny_inputs)
    with pytest.raises(CalibrationError, match="empty"):
        measure_shifts(tiny_onnx, plan, thresholds, lambda: iter([]))
