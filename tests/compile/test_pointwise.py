"""Dense layers over pixels as 1x1 convolutions: the same function, fewer transpositions, anything else untouched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fer.compile.calibrate import open_session, run_logits
from edge_fer.compile.gelu import fuse_gelu
from edge_fer.compile.pointwise import dense_to_pointwise

NODE = helper.make_node


def model_of(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray]) -> onnx.ModelProto:
    """(batch, 4, 6, 5) -> (batch, 7): what the nodes make of it is pooled."""
    last = nodes[-1].output[0]
    ends = [
        NODE("GlobalAveragePool", [last], ["pool"], "pool"),
        NODE("Flatten", ["pool"], ["flat"], "flat"),
        NODE("Gemm", ["flat", "fc.weight"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        [*nodes, *ends],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4, 6, 5])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 7])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


RNG = np.random.default_rng(0)
WEIGHTS = {
    "a.weight": RNG.normal(size=(4, 9)),
    "a.bias": RNG.normal(size=9),
    "b.weight": RNG.normal(size=(9, 4)),
    "b.bias": RNG.normal(size=4),
    "one": np.array(1.0),
    "half": np.array(0.5),
    "root": np.array(np.sqrt(2.0)),
    "fc.weight": RNG.normal(size=(7, 4)),
}


def perceptron(*, skip_to_last: bool = False) -> onnx.ModelProto:
    """Transposed to channels last, dense, GELU, dense, back, added to the input."""
    nodes = [
        NODE("Transpose", ["input"], ["last"], "last", perm=[0, 2, 3, 1]),
        NODE("MatMul", ["last", "a.weight"], ["a"], "a"),
        NODE("Add", ["a.bias", "a"], ["a.out"], "a.add"),
        NODE("Div", ["a.out", "root"], ["scaled"], "scaled"),
        NODE("Erf", ["scaled"], ["erf"], "erf"),
        NODE("Add", ["erf", "one"], ["plus"], "plus"),
        NODE("Mul", ["a.out", "plus"], ["times"], "times"),
        NODE("Mul", ["times", "half"], ["gelu"], "gelu"),
        NODE("MatMul", ["gelu", "b.weight"], ["b"], "b"),
        NODE("Add", ["b", "b.bias"], ["b.out"], "b.add"),
    ]
    if skip_to_last:  # something that needs the old order
        nodes += [
            NODE("Softmax", ["b.out"], ["soft"], "soft", axis=-1),
            NODE("Transpose", ["soft"], ["first"], "first", perm=[0, 3, 1, 2]),
        ]
    else:
        nodes.append(NODE("Transpose", ["b.out"], ["first"], "first", perm=[0, 3, 1, 2]))
    return model_of([*nodes, NODE("Add", ["first", "input"], ["sum"], "sum")], WEIGHTS)


def logits(model: onnx.ModelProto) -> np.ndarray:
    inputs = np.random.default_rng(1).normal(size=(3, 4, 6, 5)).astype(np.float32)
    return run_logits(open_session(model, 1, literal=True), inputs)


@pytest.mark.parametrize("skip_to_last", [False, True])
def test_the_function_stays_and_the_matrices_become_convolutions(skip_to_last):
    model = perceptron(skip_to_last=skip_to_last)
    written = dense_to_pointwise(model)
    onnx.checker.check_model(written, full_check=True)
    np.testing.assert_allclose(logits(model), logits(written), atol=1e-5)
    kinds = Counter(node.op_type for node in written.graph.node)
    assert (kinds["MatMul"], kinds["Conv"], kinds["Gemm"]) == (0, 2, 1)
    # Between the two, nothing turns the picture; after them, only what needs the old order.
    assert kinds["Transpose"] == (4 if skip_to_last else 2)


def test_the_exact_gelu_becomes_one_operator_and_the_same_function():
    model = dense_to_pointwise(perceptron())
    fused = fuse_gelu(model)
    onnx.checker.check_model(fused, full_check=True)
    kinds = Counter(node.op_type for node in fused.graph.node)
    assert (kinds["Gelu"], kinds["Erf"], kinds["Div"], kinds["Mul"]) == (1, 0, 0, 0)
    assert fused.opset_import[0].version == 20
    np.testing.assert_allclose(logits(model), logits(fused), atol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("one", 1.5), ("half", 0.25), ("root", 2.0)])
def test_what_only_looks_like_a_gelu_stays_as_it_is(name, value):
    model = perceptron()
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), name))
    assert fuse_gelu(model) is model


def test_a_gelu_that_is_halved_before_it_is_multiplied_is_found_too():
    nodes = [
        NODE("Div", ["input", "root"], ["scaled"], "scaled"),
        NODE("Erf", ["scaled"], ["erf"], "erf"),
        NODE("Add", ["erf", "one"], ["plus"], "plus"),
        NODE("Mul", ["input", "half"], ["x.half"], "x.half"),
        NODE("Mul", ["x.half", "plus"], ["gelu"], "gelu"),
    ]
    model = model_of(nodes, {name: WEIGHTS[name] for name in ("one", "half", "root", "fc.weight")})
    fused = fuse_gelu(model)
    assert [n.op_type for n in fused.graph.node] == ["Gelu", "GlobalAveragePool", "Flatten", "Gemm"]
    np.testing.assert_allclose(logits(model), logits(fused), atol=1e-6)


def test_a_network_without_dense_layers_over_pixels_is_returned_as_it_is(tiny_onnx):
    assert dense_to_pointwise(tiny_onnx) is tiny_onnx
    assert fuse_gelu(tiny_onnx) is tiny_onnx
