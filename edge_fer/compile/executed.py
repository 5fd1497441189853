"""What a runtime really executes: a file that loads may still run in floating point, and slower than before."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import ModelProto

from edge_fer.backends.openvino.build import import_openvino

_ORT_INT8 = frozenset(
    {
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "MatMulInteger",
        "ConvInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
_ORT_FLOAT = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
)
_OPENVINO_LAYERS = frozenset({"Convolution", "FullyConnected", "MatMul", "Deconvolution"})
_INT8_TYPES = frozenset({"u8", "i8"})
_FLOAT_TYPES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


@dataclass(frozen=True)
class Executed:
    """Weighted layers of the optimised graph, by the precision that they are computed in."""

    int8: int
    other: int


def executed_by_onnxruntime(model: ModelProto) -> Executed:
    """Count layers of the graph that ONNX Runtime's CPU provider leaves after its own optimisations."""
    with tempfile.TemporaryDirectory(prefix="edge-fer-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(path).graph.node]
    return Executed(int8=sum(k in _ORT_INT8 for k in kinds), other=sum(k in _ORT_FLOAT for k in kinds))


def executed_by_openvino(model: ModelProto, input_shape: tuple[int, int, int]) -> Executed:
    """Count layers of the graph that OpenVINO's CPU plugin executes, for one sample of ``input_shape``.

    Raises:
        MissingDependencyError: openvino is not installed.
    """
    core = import_openvino().Core()
    network = core.read_model(model.SerializeToString())
    network.reshape([1, *input_shape])
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    found = layers_by_precision(compiled)
    int8 = found.pop("int8", 0)
    return Executed(int8=int8, other=sum(found.values()))


def layers_by_precision(compiled: Any) -> dict[str, int]:
    """Weighted layers that a compiled OpenVINO model executes, by precision: ``int8``, ``bf16``, ``fp32``."""
    found: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        if info["layerType"].astype(str) in _OPENVINO_LAYERS:
            kind = info["runtimePrecision"].astype(str)
            found["int8" if kind in _INT8_TYPES else _FLOAT_TYPES.get(kind, kind)] += 1
    return dict(found)
