"""Q/DQ: the arithmetic, the two dialects, and whether the runtimes really compute in int8."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from edge_fer.compile.calibrate import choose_ranges, collect, open_session, run_logits
from edge_fer.compile.executed import executed_by_onnxruntime, executed_by_openvino
from edge_fer.compile.graph import Graph
from edge_fer.compile.lint_trt import lint_trt
from edge_fer.compile.plan import plan_quantisation
from edge_fer.compile.quantize_int8 import activation_grid, multiplied_together, quantize_int8, quantize_weight

floats = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


def quantised(model, inputs, dialect, keep=frozenset(), method="minmax"):
    plan = plan_quantisation(Graph(model), frozenset(keep))
    stats = collect(model, plan.measured, lambda: iter([inputs]))
    thresholds = {name: found.threshold for name, found in choose_ranges(stats, plan, method).items()}
    return quantize_int8(model, plan, thresholds, dialect), plan, thresholds


@pytest.fixture(scope="module")
def tiny_cpu(tiny_onnx, tiny_inputs):
    return quantised(tiny_onnx, tiny_inputs, "cpu")


@pytest.fixture(scope="module")
def resnet_cpu(resnet_onnx, resnet_inputs):
    return quantised(resnet_onnx, resnet_inputs, "cpu")


@pytest.fixture(scope="module")
def resnet_trt(resnet_onnx, resnet_inputs):
    return quantised(resnet_onnx, resnet_inputs, "trt")


@given(
    st.floats(1e-6, 1e6),
    st.booleans(),
    st.sampled_from(["cpu", "trt"]),
    hnp.arrays(np.float64, 20, elements=st.floats(-1, 1)),
)
def test_a_value_inside_the_range_comes_back_within_half_a_step(span, never_negative, dialect, shares):
    scale, zero = activation_grid(span, never_negative=never_negative, dialect=dialect)
    assert scale > 0
    assert zero.ndim == 0
    assert int(zero) == 0
    limits = np.iinfo(zero.dtype)
    values = (np.abs(shares) if never_negative else shares) * span
    integers = np.clip(np.rint(values / scale), limits.min, limits.max)
    assert np.abs(integers * scale - values).max() <= scale * 0.5001
    assert (limits.max if never_negative and dialect == "cpu" else 127) * scale == pytest.approx(span, rel=1e-6)


def test_a_range_that_is_no_range_is_refused():
    for span in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="range"):
            activation_grid(span, never_negative=True, dialect="cpu")
    scale, _ = activation_grid(0.0, never_negative=True, dialect="cpu")
    assert scale > 0


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=floats), st.integers(0, 1))
def test_weights_round_trip_within_half_a_step_of_their_own_channel(weight, axis):
    integers, scales = quantize_weight(weight, axis)
    assert integers.dtype == np.int8
    assert scales.shape == (weight.shape[axis],)
    assert (scales > 0).all()
    assert integers.min() >= -127
    shape = [1] * weight.ndim
    shape[axis] = -1
    restored = integers * scales.reshape(shape)
    assert (np.abs(restored - weight) <= scales.reshape(shape) * 0.5001 + 1e-12).all()
    assert np.array_equal(np.sign(integers) * np.sign(weight) < 0, np.zeros_like(weight, bool))


@given(st.floats(1e-8, 10.0), st.floats(1e-12, 1.0), st.floats(-1e5, 1e5))
def test_a_bias_always_fits_32_bits(input_scale, size, bias):
    weight = np.full((1, 4), size, np.float32)
    biases = np.array([bias], np.float32)
    _, scales = quantize_weight(weight, 0, bias=biases, input_scale=input_scale)
    stored = np.rint(biases.astype(np.float64) / (np.float64(scales) * input_scale))
    assert np.abs(stored).max() < 2**31


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)),
        elements=floats,
    )
)
def test_no_pair_of_products_can_overflow_16_bits(weight):
    integers, _ = quantize_weight(weight, 0, pair_safe=True)
    for pairs in multiplied_together(integers.astype(np.float64)):
        highest = 255 * np.maximum(pairs, 0).sum(axis=2)
        lowest = 255 * np.minimum(pairs, 0).sum(axis=2)
        assert highest.max(initial=0) <= 2**15 - 1
        assert lowest.min(initial=0) >= -(2**15)


def test_pairs_are_neighbouring_input_channels_and_for_odd_ones_the_flattened_window():
    even = np.arange(8.0).reshape(1, 4, 1, 2)
    (pairs,) = multiplied_together(even)
    assert pairs.tolist() == [[[0, 2], [4, 6], [1, 3], [5, 7]]]
    one = np.arange(9.0).reshape(1, 1, 3, 3)
    _, rows_first, columns_first = multiplied_together(one)
    assert rows_first.tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7], [8, 0]]]
    assert columns_first.tolist() == [[[0, 3], [6, 1], [4, 7], [2, 5], [8, 0]]]


WITHOUT_VNNI = """
import sys
import numpy as np
import openvino
settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
compiled = openvino.Core().compile_model(openvino.Core().read_model(sys.argv[1]), "CPU", settings)
np.save(sys.argv[3], compiled({0: np.load(sys.argv[2])})[0])
"""


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
@pytest.mark.parametrize("network", ["tiny", "resnet"])
def test_cpus_without_vnni_give_the_same_answer(network, isa, request, tmp_path):
    """oneDNN can be told to use older instructions; plain weights overflow 16 bits there."""
    model = request.getfixturevalue(f"{network}_cpu")[0]
    inputs = request.getfixturevalue(f"{network}_inputs")[:16]
    onnx.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "in.npy", inputs)
    command = [sys.executable, "-c", WITHOUT_VNNI, *(str(tmp_path / n) for n in ("model.onnx", "in.npy", "out.npy"))]
    subprocess.run(command, env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa}, check=True, timeout=120)
    literal = run_logits(open_session(model, 1, literal=True), inputs)
    assert np.abs(np.load(tmp_path / "out.npy") - literal).max() < 0.05 * np.abs(literal).max()


def test_every_runtime_computes_every_quantised_layer_in_int8(tiny_cpu, resnet_cpu):
    for (model, plan, _), shape, layers in ((tiny_cpu, (1, 32, 32), 7), (resnet_cpu, (3, 64, 64), 20)):
        assert len(plan.layers) == layers
        for executed in (executed_by_onnxruntime(model), executed_by_openvino(model, shape)):
            assert executed.int8 == layers
            assert executed.other == 1, "only the layer that makes the logits stays in floating point"


def test_onnxruntime_fuses_every_residual_addition(resnet_cpu, tmp_path):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(resnet_cpu[0].SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearAdd") == 8
    assert "Add" not in kinds
    assert kinds.count("QuantizeLinear") == 1
    assert kinds.count("DequantizeLinear") == 1


def test_int8_gives_the_labels_of_fp32(
    tiny_onnx, tiny_inputs, tiny_cpu, resnet_onnx, resnet_inputs, resnet_cpu, resnet_trt
):
    for model, inputs, int8 in (
        (tiny_onnx, tiny_inputs, tiny_cpu),
        (resnet_onnx, resnet_inputs, resnet_cpu),
        (resnet_onnx, resnet_inputs, resnet_trt),
    ):
        expected = run_logits(open_session(model, 1), inputs)
        got = run_logits(open_session(int8[0], 1, literal=True), inputs)
        assert (expected.argmax(1) == got.argmax(1)).mean() >= 0.97
        assert np.abs(expected - got).max() < 0.1 * np.abs(expected).max()
        assert np.abs(expected - got).max() > 0, "nothing was quantised"


def in_cpu(tensor: str) -> str:
    """What the cpu dialect quantises for a tensor of the plan: the ResNet's input in blocks of two by two pixels."""
    return "input.blocks2" if tensor == "input" else tensor


def test_both_dialects_come_from_the_same_ranges(resnet_onnx, resnet_inputs, resnet_cpu, resnet_trt):
    (cpu, plan, thresholds), (trt, same_plan, same_thresholds) = resnet_cpu, resnet_trt
    assert plan == same_plan
    assert thresholds == same_thresholds
    assert set(thresholds) == set(plan.measured)
    for tensor in set(plan.points["cpu"]) & set(plan.points["trt"]):
        levels = 255 if tensor in plan.never_negative else 127
        wide = float(Graph(cpu).array(f"{in_cpu(tensor)}.scale")) * levels
        assert wide == pytest.approx(float(Graph(trt).array(f"{tensor}.scale")) * 127, rel=1e-6)


def test_the_cpu_dialect_is_unsigned_exactly_where_nothing_can_be_negative(resnet_cpu):
    model, plan, _ = resnet_cpu
    graph = Graph(model)
    for tensor in plan.points["cpu"]:
        kind = graph.initializers[f"{in_cpu(tensor)}.zero_point"].data_type
        assert kind == (TensorProto.UINT8 if tensor in plan.never_negative else TensorProto.INT8)
    assert "layer1.0.conv1.relu" in plan.never_negative
    assert "conv1.relu.maxpool" in plan.never_negative
    assert {"input", "layer1.0.conv2", "layer2.0.downsample.0"} <= set(plan.points["cpu"]) - plan.never_negative


def test_a_signed_tensor_that_several_layers_read_is_shifted_so_that_onnx_runtime_computes_in_int8():
    """x = conv(input) without activation, read by two convolutions and an addition."""
    rng = np.random.default_rng(0)
    stored = {f"{k}.weight": rng.normal(0, 0.2, (16, 16 if k != "a" else 4, 3, 3)).astype(np.float32) for k in "abc"}
    stored["fc.weight"] = rng.normal(size=(7, 16)).astype(np.float32)
    conv = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["input", "a.weight"], ["a"], "a", **conv),
        helper.make_node("Conv", ["a", "b.weight"], ["b"], "b", **conv),
        helper.make_node("Conv", ["b", "c.weight"], ["c"], "c", **conv),
        helper.make_node("Add", ["a", "c"], ["sum"], "sum"),
        helper.make_node("GlobalAveragePool", ["sum"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "fc.weight"], ["logits"], "fc", transB=1),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 7])],
            [numpy_helper.from_array(v, k) for k, v in stored.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    inputs = rng.normal(size=(4, 4, 8, 8)).astype(np.float32)
    int8, plan, _ = quantised(model, inputs, "cpu")
    graph = Graph(int8)
    assert (graph.array("a.zero_point").dtype, int(graph.array("a.zero_point"))) == (np.uint8, 128)
    assert (graph.array("b.zero_point").dtype, int(graph.array("b.zero_point"))) == (np.int8, 0)
    assert executed_by_onnxruntime(int8).int8 == len(plan.layers) == 3
    before, after = (run_logits(open_session(form, 1), inputs) for form in (model, int8))
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


def test_the_trt_dialect_quantises_only_the_shortcut_of_an_addition(resnet_trt):
    model, plan, _ = resnet_trt
    graph = Graph(model)
    additions = [node for node in graph.nodes if node.op_type == "Add"]
    assert len(additions) == 8
    for addition in additions:
        sources = [graph.producer[name].op_type for name in addition.input]
        assert sorted(sources) == ["Conv", "DequantizeLinear"]
    assert "layer2.0.downsample.0" in plan.points["trt"]
    assert "layer2.0.conv2" not in plan.points["trt"]
    assert lint_trt(model) == []


def test_pooling_keeps_the_scale_of_what_it_pools(resnet_cpu):
    graph = Graph(resnet_cpu[0])
    assert graph.array("conv1.relu.scale") == graph.array("conv1.relu.maxpool.scale")


def test_layers_can_be_kept_in_floating_point(resnet_onnx, resnet_inputs):
    kept = {"conv1", "layer4.1.conv2"}
    model, plan, _ = quantised(resnet_onnx, resnet_inputs, "cpu", keep=kept)
    assert not kept & set(plan.layers)
    executed = executed_by_onnxruntime(model)
    assert (executed.int8, executed.other) == (18, 3)
    assert "conv1.weight" in Graph(model).initializers


def test_int8_is_a_quarter_of_the_size(resnet_onnx, resnet_cpu):
    assert resnet_cpu[0].ByteSize() < 0.27 * resnet_onnx.ByteSize()


@pytest.mark.parametrize(("mode", "own"), [("cubic", True), ("linear", False), ("nearest", False)])
def test_an_enlargement_that_overshoots_has_a_range_and_a_sign_of_its_own(mode, own):
    nodes = [
        helper.make_node("Relu", ["input"], ["rectified"], "rectified"),
        helper.make_node("Resize", ["rectified", "", "factors"], ["enlarged"], "enlarged", mode=mode),
        helper.make_node("Conv", ["enlarged", "conv.weight"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["conv", "last.weight"], ["logits"], "last"),
    ]
    weights = np.random.default_rng(0).normal(size=(4, 4, 3, 3)).astype(np.float32)
    stored = {"factors": np.array([1, 1, 2, 2], np.float32), "conv.weight": weights, "last.weight": weights}
    graph = helper.make_graph(
        nodes,
        "enlarging",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4, 14, 14])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    plan = plan_quantisation(Graph(model))
    assert plan.shares["enlarged"] == ("enlarged" if own else "rectified")
    assert ("enlarged" in plan.never_negative) is not own
