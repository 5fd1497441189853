"""Which form of int8 a backend reads, and under which name the canary holds that form's logits."""

from __future__ import annotations

from edge_fer.core.manifest import Variant

DIALECTS: dict[str, str] = {
    "onnxruntime": "cpu",
    "openvino": "cpu",
    "onnxruntime-cuda": "cpu",
    "onnxruntime-cuda-graph": "cpu",
    "onnxruntime-tensorrt": "trt",
    "tensorrt": "trt",
}
"""Each *loads* the other dialect too, but runs it slower or computes something else."""


def canary_key(backend: str, precision: str) -> str:
    """Name of the stored logits that an engine is held to.

    The two int8 dialects round on different grids, so each has logits of its own. Half precisions have none and are
    held to those of fp32.
    """
    if precision == "int8":
        return "int8-trt" if DIALECTS.get(backend) == "trt" else "int8"
    return "fp32"


def form_key(form: Variant) -> str:
    """Name of the logits of one form of a bundle, executed literally."""
    return "int8-trt" if form.dialect == "trt" else form.precision
