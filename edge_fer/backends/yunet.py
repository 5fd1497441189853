"""YuNet (Wu, Peng & Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023) on our engines.

The published file has twelve outputs and an input of fixed size. It is rewritten once into the layout of our own
detector (:class:`edge_fer.core.spec.DetectorSpec`), which changes names and zero points only, and from then on decoded,
suppressed and searched near known faces by the same code, at any input size, on any engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_fer.core.engine import BATCH, HEIGHT, INPUT, OUTPUT, WIDTH
from edge_fer.core.errors import BadInputError, MissingDependencyError
from edge_fer.core.files import atomic_file, sha256_file
from edge_fer.core.spec import DetectorSpec

SPEC = DetectorSpec(
    name="yunet",
    arch="yunet",
    colour="bgr",
    mean=0.0,
    std=1 / 255,
    score=0.6,
    smallest_px=10.0,
)
"""Its input is BGR in 0..255. The score is the root of the product of its two, as in its authors' code; 0.6 rather than
their 0.9 finds what 0.9 misses in profile, and alarms rarely."""
OUTPUTS = ("cls", "obj", "bbox", "kps")
OPSET = 13
LAYOUT = "2"
"""Part of the cached file's name; to be raised when this module writes something else."""
HALF = 0.5
"""Its places are counted from the corner of their cell, ours from its middle."""


def rewritten(source: Path, cache: Path) -> Path:
    """The rewritten network, from the cache where it is.

    Raises:
        BadInputError: there is no such file, or it is not YuNet.
        MissingDependencyError: onnx is needed to rewrite it for the first time.
    """
    if not source.is_file():
        raise BadInputError(
            f"There is no YuNet model {source}.", fix="`edge-fer fetch yunet` gets it from its project's address."
        )
    target = cache / f"yunet-{sha256_file(source)[:16]}-{LAYOUT}.onnx"
    if not target.is_file():
        data = _rewrite(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as temporary:
            temporary.write_bytes(data)
    return target


def _rewrite(source: Path) -> bytes:
    try:
        import onnx
        from onnx import version_converter
    except ModuleNotFoundError:
        raise MissingDependencyError("onnx", extra="compile", purpose="reading YuNet for the first time") from None
    try:
        model = onnx.load(str(source))
    except Exception as error:  # protobuf has a class of its own for a file that is none of its
        raise BadInputError(
            f"{source} is not an ONNX model: {str(error).splitlines()[0]}.",
            fix="edge-fer fetch yunet gets the right one from its project's address.",
        ) from None
    outputs = {output.name for output in model.graph.output}
    wanted = {f"{kind}_{stride}" for kind in OUTPUTS for stride in SPEC.strides}
    if len(model.graph.input) != 1 or outputs != wanted:
        raise BadInputError(
            f"{source} is not YuNet: its outputs are {', '.join(sorted(outputs)[:4])}, not "
            f"{', '.join(sorted(wanted)[:4])} and so on.",
            fix="edge-fer fetch yunet gets the right one from its project's address.",
        )
    model = version_converter.convert_version(model, OPSET)
    graph = model.graph
    _leave_out_what_is_empty(graph)
    _join(onnx, graph)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _leave_out_what_is_empty(graph: Any) -> None:
    """Inputs that are constants without values, as the region of its Resizes, are as good as none; TensorRT's parser
    warns of them, and a warning of the parser stops a build."""
    empty = {tensor.name for tensor in graph.initializer if 0 in tensor.dims}
    for node in graph.node:
        node.input[:] = ["" if name in empty else name for name in node.input]
    kept = [tensor for tensor in graph.initializer if tensor.name not in empty]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _join(onnx: Any, graph: Any) -> None:
    """Twelve outputs (1, places, fields) of three strides to one (1, 15, all places)."""
    import numpy as np

    helper, numpy_helper = onnx.helper, onnx.numpy_helper

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    box_shift = constant("edge_fer.box_shift", [HALF, HALF, 0.0, 0.0])
    point_shift = constant("edge_fer.point_shift", [HALF] * 10)
    one = constant("edge_fer.one", 1.0)
    rows = []
    for stride in SPEC.strides:
        # The logit of sqrt(cls * obj): ln s - ln (1 - s).
        product = add("Mul", [f"cls_{stride}", f"obj_{stride}"], f"edge_fer.product_{stride}")
        score = add("Sqrt", [product], f"edge_fer.score_{stride}")
        rest = add("Sub", [one, score], f"edge_fer.rest_{stride}")
        odds = add("Div", [score, rest], f"edge_fer.odds_{stride}")
        logit = add("Log", [odds], f"edge_fer.logit_{stride}")
        box = add("Sub", [f"bbox_{stride}", box_shift], f"edge_fer.box_{stride}")
        points = add("Sub", [f"kps_{stride}", point_shift], f"edge_fer.points_{stride}")
        rows.append(add("Concat", [logit, box, points], f"edge_fer.fields_{stride}", axis=2))
    joined = add("Concat", rows, "edge_fer.joined", axis=1)
    add("Transpose", [joined], OUTPUT, perm=[0, 2, 1])
    old = graph.input[0].name
    for node in graph.node:
        node.input[:] = [INPUT if name == old else name for name in node.input]
    floats = onnx.TensorProto.FLOAT
    for values, value in (
        (graph.input, helper.make_tensor_value_info(INPUT, floats, [BATCH, 3, HEIGHT, WIDTH])),
        (graph.output, helper.make_tensor_value_info(OUTPUT, floats, [BATCH, 15, "places"])),
    ):
        del values[:]
        values.append(value)
    del graph.value_info[:]


__all__ = ["SPEC", "rewritten"]
