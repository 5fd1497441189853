"""A network executed as it is written: every operator by itself, nothing fused, reordered or rewritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.onnxruntime.build import ERRORS_ONLY, explain
from edge_fer.core.engine import INPUT, OUTPUT


def literal_outputs(onnx: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of an ONNX file for inputs (n, C, H, W), by ONNX Runtime without its optimiser: the yardstick that a
    fast engine is held against.

    Raises:
        DeviceError: ONNX Runtime cannot load the file.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run([OUTPUT], {INPUT: inputs})[0], dtype=np.float32)
    except Exception as error:
        raise explain(error, onnx) from None
