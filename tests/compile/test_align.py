"""The first convolution rearranged for integer kernels: the same function, and only where a kernel gains from it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_fer.compile.align import align_channels
from edge_fer.compile.calibrate import choose_ranges, collect, open_session, run_logits
from edge_fer.compile.executed import executed_by_onnxruntime
from edge_fer.compile.graph import Graph, attributes
from edge_fer.compile.plan import plan_quantisation
from edge_fer.compile.quantize_int8 import quantize_int8


def network(
    channels: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    size_hw: tuple[int, int] = (12, 16),
    group: int = 1,
    second_reader: bool = False,
) -> onnx.ModelProto:
    """conv -> relu -> conv1x1 -> pooled logits, in the way that export writes them."""
    rng = np.random.default_rng(0)
    width = 16 if group == 1 else channels
    stored = {
        "stem.weight": rng.normal(0, 0.3, (width, channels // group, kernel, kernel)),
        "stem.bias": rng.normal(0, 0.1, width),
        "next.weight": rng.normal(0, 0.3, (8, width, 1, 1)),
        "side.weight": rng.normal(0, 0.3, (8, channels, 1, 1)),
        "fc.weight": rng.normal(0, 0.3, (7, 8)),
    }
    stem = {"pads": list(pads), "strides": [stride, stride], "group": group, "kernel_shape": [kernel, kernel]}
    nodes = [
        helper.make_node("Conv", ["input", "stem.weight", "stem.bias"], ["stem"], "stem", **stem),
        helper.make_node("Relu", ["stem"], ["stem.relu"], "stem.relu"),
        helper.make_node("Conv", ["stem.relu", "next.weight"], ["next"], "next"),
        helper.make_node("GlobalAveragePool", ["next"], ["pool"], "pool"),
    ]
    last = "pool"
    if second_reader:
        nodes += [
            helper.make_node("Conv", ["input", "side.weight"], ["side"], "side"),
            helper.make_node("GlobalAveragePool", ["side"], ["side.pool"], "side.pool"),
            helper.make_node("Add", ["pool", "side.pool"], ["sum"], "sum"),
        ]
        last = "sum"
    nodes += [
        helper.make_node("Flatten", [last], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "fc.weight"], ["logits"], "fc", transB=1),
    ]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, *size_hw])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 7])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items() if k in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def faces(model: onnx.ModelProto, count: int = 2) -> np.ndarray:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)


def logits(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    return run_logits(open_session(model, 1), inputs)


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("second_reader", [False, True])
def test_adding_channels_changes_nothing_that_is_computed(channels, second_reader):
    model = network(channels, second_reader=second_reader)
    plan = plan_quantisation(Graph(model))
    aligned, replanned = align_channels(model, plan)
    onnx.checker.check_model(aligned, full_check=True)
    np.testing.assert_allclose(logits(model, faces(model)), logits(aligned, faces(model)), atol=1e-5)
    assert Graph(aligned).array("stem.weight").shape[1] % 4 == 0
    assert "input.padded" in replanned.points["cpu"]
    assert replanned.shares["input.padded"] == "input"
    assert ("input" in replanned.points["cpu"]) == second_reader
    assert replanned.measured == plan.measured, "the same ranges serve both"
    assert replanned.points["trt"] == plan.points["trt"]


@settings(max_examples=40)
@given(
    channels=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([2, 4]),
    kernel=st.integers(2, 9),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    size=st.tuples(st.integers(2, 5), st.integers(2, 5)),
)
def test_blocks_of_pixels_as_channels_change_nothing_that_is_computed(channels, stride, kernel, pads, size):
    size_hw = (max(size[0] * stride, 12), max(size[1] * stride, 12))
    model = network(channels, kernel=kernel, stride=stride, pads=pads, size_hw=size_hw)
    aligned, replanned = align_channels(model, plan_quantisation(Graph(model)))
    onnx.checker.check_model(aligned, full_check=True)
    np.testing.assert_allclose(logits(model, faces(model)), logits(aligned, faces(model)), atol=1e-4)
    conv = next(node for node in aligned.graph.node if node.name == "stem")
    if conv.input[0] == f"input.blocks{stride}":
        assert attributes(conv)["strides"] == [1, 1]
        assert "input" not in replanned.points["cpu"]


def test_the_stems_of_resnet_and_convnext_become_small_kernels_over_many_channels():
    resnet = network(3, kernel=7, stride=2, pads=(3, 3, 3, 3), size_hw=(224, 224))
    convnext = network(3, kernel=4, stride=4, pads=(0, 0, 0, 0), size_hw=(224, 224))
    shapes = [
        Graph(align_channels(m, plan_quantisation(Graph(m)))[0]).array("stem.weight").shape for m in (resnet, convnext)
    ]
    assert shapes == [(16, 12, 4, 4), (16, 48, 1, 1)]


def test_an_input_that_is_no_whole_number_of_blocks_gets_channels_instead():
    model = network(3, kernel=7, stride=2, pads=(3, 3, 3, 3), size_hw=(15, 16))
    aligned, _ = align_channels(model, plan_quantisation(Graph(model)))
    assert {n.op_type for n in aligned.graph.node} & {"SpaceToDepth", "Pad"} == {"Pad"}
    np.testing.assert_allclose(logits(model, faces(model)), logits(aligned, faces(model)), atol=1e-5)


@pytest.mark.parametrize(("names", "operator"), [(("H", "W"), "SpaceToDepth"), (("rows", "columns"), "Pad")])
def test_an_input_of_open_size_is_cut_into_blocks_only_where_the_contract_says_that_they_fit(names, operator):
    """A detector's input has sides that are multiples of 32; of another open size nothing is known."""
    model = network(1, kernel=3, stride=2)
    for axis, name in zip((2, 3), names, strict=True):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    aligned, _ = align_channels(model, plan_quantisation(Graph(model)))
    assert {n.op_type for n in aligned.graph.node} & {"SpaceToDepth", "Pad"} == {operator}
    for size in ((32, 64), (96, 32)):
        inputs = np.random.default_rng(2).normal(size=(1, 1, *size)).astype(np.float32)
        np.testing.assert_allclose(logits(model, inputs), logits(aligned, inputs), atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [network(4), network(3, kernel=1, pads=(0, 0, 0, 0)), network(16, group=16)],
    ids=["aligned", "pointwise", "depthwise"],
)
def test_what_gains_nothing_is_left_as_it_is(model):
    plan = plan_quantisation(Graph(model))
    aligned, replanned = align_channels(model, plan)
    assert aligned is model
    assert replanned is plan


@pytest.mark.parametrize(("channels", "stride", "operator"), [(1, 1, "Pad"), (3, 1, "Pad"), (3, 2, "SpaceToDepth")])
def test_the_int8_form_for_cpus_runs_it_in_int8_and_the_trt_form_is_as_it_was(channels, stride, operator):
    model = network(channels, stride=stride)
    plan, inputs = plan_quantisation(Graph(model)), faces(model, 4)
    ranges = choose_ranges(collect(model, plan.measured, lambda: iter([inputs])), plan, "minmax")
    thresholds = {name: found.threshold for name, found in ranges.items()}
    cpu, trt = (quantize_int8(model, plan, thresholds, dialect) for dialect in ("cpu", "trt"))
    assert [n.op_type for n in cpu.graph.node].count(operator) == 1
    assert not {"Pad", "SpaceToDepth"} & {n.op_type for n in trt.graph.node}
    assert executed_by_onnxruntime(cpu).int8 == len(plan.layers) == 2
    before, after = logits(model, inputs), logits(cpu, inputs)
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()
