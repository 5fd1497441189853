"""Load one inference library and say what it really offers: ``python -m edge_fer.bench.backend_probe NAME``.

This runs in a process of its own, because a library may crash when a driver is missing, and because several of them in
one process disturb each other. It prints one line of JSON:
``{"listed": [...], "devices": [...], "problems": [...], "precisions": [...]}`` or ``{"error": "..."}``.

Being listed proves nothing: ONNX Runtime's GPU package offers the CUDA provider on a machine without CUDA, takes it for
a session, and computes on the CPU. So every provider and device has to run a small network here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from edge_fer.core.errors import EdgeFerError

# ONNX, opset 13: float32 input (1, 4) -> Relu -> output. Written out so that the probe needs no package to make it.
RELU_ONNX = bytes.fromhex(
    "080712003a510a150a05696e70757412066f7574707574220452656c75120570726f62655a170a05696e707574120e0a"
    "0c080112080a0208010a02080462180a066f7574707574120e0a0c080112080a0208010a02080442040a00100d"
)

IGNORED_PROVIDERS = frozenset({"AzureExecutionProvider"})
"""Calls a service on the internet; it is in every wheel and is no device of this machine."""


def probe_onnxruntime() -> dict[str, Any]:
    import numpy as np
    import onnxruntime as ort

    devices, problems = [], []
    listed = ort.get_available_providers()
    for provider in listed:
        if provider in IGNORED_PROVIDERS:
            continue
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(RELU_ONNX, options, providers=[provider])
            granted = session.get_providers()
            result = session.run(None, {"input": np.array([[-1, 0, 1, 2]], np.float32)})[0]
        except Exception as error:
            problems.append(f"{provider} is listed but does not load: {_first_line(error)}")
            continue
        if granted[0] != provider:
            problems.append(f"{provider} is listed but does not load: the session runs on {granted[0]}")
        elif result.tolist() != [[0, 0, 1, 2]]:
            problems.append(f"{provider} computes wrong results")
        else:
            devices.append(provider)
    return {"listed": listed, "devices": devices, "problems": problems}


def probe_openvino() -> dict[str, Any]:
    import numpy as np

    from edge_fer.backends.openvino.build import import_openvino

    devices, problems = [], []
    core = import_openvino().Core()
    for device in core.available_devices:
        name = core.get_property(device, "FULL_DEVICE_NAME")
        try:
            model = core.read_model(RELU_ONNX)
            result = core.compile_model(model, device)(np.array([[-1, 0, 1, 2]], np.float32))[0]
        except Exception as error:
            problems.append(f"{device} ({name}) is listed but does not load: {_first_line(error)}")
            continue
        if result.tolist() != [[0, 0, 1, 2]]:
            problems.append(f"{device} ({name}) computes wrong results")
        else:
            capabilities = ", ".join(core.get_property(device, "OPTIMIZATION_CAPABILITIES"))
            devices.append(f"{device}: {name} ({capabilities})")
    return {"listed": core.available_devices, "devices": devices, "problems": problems}


def probe_tensorrt() -> dict[str, Any]:
    """Load the library and start its builder, which is as far as it goes without a network. It may crash on a machine
    without a driver; this process is there for that."""
    from edge_fer.backends.gpu import current_gpu, identity
    from edge_fer.backends.tensorrt.library import import_tensorrt, installed, listener
    from edge_fer.core.errors import DeviceError

    listed = [" ".join(installed() or ())]
    trt = import_tensorrt()
    try:
        gpu = identity(current_gpu())
    except DeviceError as error:
        return {"listed": listed, "devices": [], "problems": [error.message]}
    try:
        trt.Builder(listener(trt))
    except Exception as error:
        said = listener(trt).said
        why = said.last() if said.errors else _first_line(error)
        return {"listed": listed, "devices": [], "problems": [f"its builder does not start on the {gpu}: {why}"]}
    return {"listed": listed, "devices": [gpu], "problems": []}


def probe_opencv() -> dict[str, Any]:
    import cv2
    import numpy as np

    problems = []
    if not hasattr(cv2, "CascadeClassifier"):
        problems.append(f"OpenCV {cv2.__version__} has no Haar cascades: edge-fer needs a version below 5")
    shrunk = cv2.resize(np.full((8, 8, 3), 7, np.uint8), (4, 4), interpolation=cv2.INTER_AREA)
    if shrunk.shape != (4, 4, 3) or (shrunk != 7).any():
        problems.append("cv2.resize computes wrong results")
    return {"devices": [] if problems else [f"cpu (cv2 {cv2.__version__})"], "problems": problems}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "onnxruntime": probe_onnxruntime,
    "opencv": probe_opencv,
    "openvino": probe_openvino,
    "tensorrt": probe_tensorrt,
}

ON_CPU = frozenset({"onnxruntime", "openvino"})
"""Libraries whose backend of the same name computes on the processor."""
ON_GPU: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "onnxruntime": ("onnxruntime-cuda", "onnxruntime-cuda-graph", "onnxruntime-tensorrt"),
}
"""Our backends that use a library on a GPU."""


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def main(name: str) -> dict[str, Any]:
    """Probe a library, and ask our own backend of that name which precisions it would run."""
    try:
        found = PROBES[name]()
    except ImportError as error:
        return {"error": f"does not import: {_first_line(error)}"}
    except EdgeFerError as error:
        return {"error": error.message}
    except Exception as error:
        return {"error": f"fails: {type(error).__name__}: {_first_line(error)}"}
    try:
        from edge_fer.backends.registry import backend_module

        found["precisions"] = list(backend_module(name, "build").precisions()) if name in ON_CPU else []
        found["gpu"] = _on_gpu(name)
    except ImportError as error:
        found["precisions"], found["gpu"] = [], []
        found["problems"].append(f"edge-fer's backend does not import: {_first_line(error)}")
    return found


def _on_gpu(name: str) -> list[dict[str, Any]]:
    """Backends of ours that would run on the GPU here, on which one, and in which precisions."""
    from edge_fer.backends.registry import backend_module

    running = []
    for backend in ON_GPU.get(name, ()):
        build = backend_module(backend, "build")
        if build.version() is not None and (precisions := build.precisions()):
            running.append({"name": backend, "device": build.device(), "precisions": list(precisions)})
    return running


if __name__ == "__main__":
    # Libraries may print while they load; only the answer belongs on standard output.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    pipe.write(json.dumps(main(sys.argv[1])) + "\n")
    pipe.flush()
