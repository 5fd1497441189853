"""Detector checkpoint -> ONNX with free batch, height and width, folded like every other network's graph."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import nn

from edge_fer.compile.export_onnx import trace
from edge_fer.compile.fold import drop_identities, fold_batch_norm
from edge_fer.compile.graph import Graph, canonical_names, rebuilt
from edge_fer.core.engine import BATCH, HEIGHT, INPUT, OUTPUT, WIDTH
from edge_fer.core.errors import CheckpointError
from edge_fer.core.spec import DetectorSpec


def export_detector(model: nn.Module, spec: DetectorSpec) -> ModelProto:
    """Trace a detector in evaluation mode: opset 17, ``input`` (N, 1, H, W) -> ``logits`` (N, 15, places).

    Raises:
        CheckpointError: the network does not give what the contract promises.
    """
    example = torch.zeros(2, *spec.input_shape)
    with torch.inference_mode():
        shape = tuple(model.eval()(example).shape)
    if shape != (2, *spec.output_shape):
        raise CheckpointError(f"{spec.name} gives {shape[1:]} for a contract of {spec.output_shape}.")
    axes = {INPUT: {0: BATCH, 2: HEIGHT, 3: WIDTH}, OUTPUT: {0: BATCH, 2: "places"}}
    folded = canonical_names(
        _fixed_reshapes(fold_batch_norm(drop_identities(trace(model, example, axes))), spec.output_shape[0])
    )
    del folded.graph.input[:], folded.graph.output[:]
    folded.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH, 1, HEIGHT, WIDTH]))
    folded.graph.output.append(
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH, spec.output_shape[0], "places"])
    )
    onnx.checker.check_model(folded, full_check=True)
    return folded


def _fixed_reshapes(model: ModelProto, fields: int) -> ModelProto:
    """Replace the shapes that the exporter computes at run time, to flatten maps of unknown size, by ``[0, 15, -1]``.

    TensorRT and the browser run the arithmetic on shapes as a dozen extra operators; zero and minus one say the same.
    """
    graph = Graph(model)
    arrays = {name: graph.array(name) for name in graph.initializers}
    arrays["flattened.shape"] = np.array([0, fields, -1], np.int64)
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        fresh = NodeProto()
        fresh.CopyFrom(node)
        if node.op_type == "Reshape" and not graph.is_constant(node.input[1]):
            fresh.input[1] = "flattened.shape"
        nodes.append(fresh)
    # What computed the shapes is read by nothing now; it goes from the end backwards.
    while True:
        read = {name for node in nodes for name in node.input} | set(graph.outputs)
        kept = [node for node in nodes if any(name in read for name in node.output)]
        if len(kept) == len(nodes):
            return rebuilt(model, kept, arrays)
        nodes = kept


def output_layers(graph: Graph) -> frozenset[str]:
    """Weighted layers whose result only moves on its way to the output: they stay in floating point.

    One row of scores, four of boxes and ten of landmarks share a tensor, and no single scale suits them; together they
    are a hundredth of the arithmetic.
    """
    found: set[str] = set()
    waiting = list(graph.outputs)
    while waiting:
        node = graph.producer.get(waiting.pop())
        if node is None:
            continue
        if node.op_type in ("Reshape", "Concat", "Transpose", "Flatten"):
            waiting.extend(graph.activations(node))
        elif node.op_type in ("Conv", "Gemm", "MatMul"):
            found.add(node.name)
    return frozenset(found)
