"""Dense layers over pixels, LayerNorm, GELU and depthwise convolutions: quantised, and really executed in int8."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_fer.compile.calibrate import choose_ranges, collect, open_session, run_logits
from edge_fer.compile.executed import executed_by_onnxruntime, executed_by_openvino
from edge_fer.compile.export_onnx import check_parity, export_onnx
from edge_fer.compile.graph import Graph
from edge_fer.compile.plan import plan_quantisation
from edge_fer.compile.quantize_int8 import quantize_int8
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.models.convnext import ConvNeXt

SPEC = ModelSpec(
    name="small-convnext",
    arch="convnext_tiny",
    preprocess=PreprocessSpec(size_hw=(64, 64), colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3),
)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A narrow ConvNeXt with layer scales and biases as large as training makes them."""
    torch.manual_seed(0)
    model = ConvNeXt((16, 32, 48, 64), (1, 1, 1, 1), 7, 3, 0.0).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("layer_scale"):
            parameter.uniform_(-0.5, 0.5)
        elif parameter.ndim == 1:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, *SPEC.input_shape)).astype(np.float32)


def test_layer_scales_are_folded_and_dense_layers_carry_their_own_names(network, inputs):
    model = export_onnx(network, SPEC)
    check_parity(network, run_logits(open_session(model, 1), inputs), inputs, SPEC.name)
    assert not [node for node in model.graph.node if node.op_type == "MatMul"]
    dense = [n for n in model.graph.node if n.op_type == "Conv" and Graph(model).array(n.input[1]).shape[2:] == (1, 1)]
    assert [node.name for node in dense] == [f"features.{s}.0.block.{k}" for s in (1, 3, 5, 7) for k in (3, 5)]
    assert all(node.input[1] == f"{node.name}.weight" for node in dense)
    turns = [node for node in model.graph.node if node.op_type == "Transpose"]
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert len(turns) <= 2 * len(norms), "what is left of the transpositions stands around the normalisations"
    assert not [tensor.name for tensor in model.graph.initializer if "layer_scale" in tensor.name]


def test_its_int8_form_agrees_with_fp32_and_runs_int8_kernels(network, inputs):
    model = export_onnx(network, SPEC)
    plan = plan_quantisation(Graph(model))
    assert len(plan.layers) == 16
    ranges = choose_ranges(collect(model, plan.measured, lambda: iter([inputs])), plan, "minmax")
    int8 = quantize_int8(model, plan, {name: found.threshold for name, found in ranges.items()}, "cpu")
    before, after = (run_logits(open_session(form, 1), inputs) for form in (model, int8))
    assert np.abs(before - after).max() < 0.06 * np.abs(before).max()
    assert [node.op_type for node in int8.graph.node].count("Gelu") == 4
    assert executed_by_onnxruntime(int8).int8 == 16
    pytest.importorskip("openvino")
    assert executed_by_openvino(int8, SPEC.input_shape).int8 == 16
