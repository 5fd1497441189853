"""A network's layers, their shapes and who feeds whom, read while one input runs through it.

Nothing is assumed about how a network is written: every torch function is seen as it is called
(``TorchFunctionMode``), so additions, concatenations and attention are found as well as modules. What only reshapes,
normalises or activates is listed with the layer that it follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LAYERS: dict[str, str] = {
    "conv1d": "convolution",
    "conv2d": "convolution",
    "conv_transpose2d": "transposed convolution",
    "linear": "dense",
    "max_pool2d": "max pooling",
    "avg_pool2d": "average pooling",
    "adaptive_avg_pool2d": "average pooling",
    "adaptive_max_pool2d": "max pooling",
    "mean": "average",
    "amax": "maximum",
    "interpolate": "upsampling",
    "add": "sum",
    "mul": "product",
    "cat": "concatenation",
    "stack": "concatenation",
    "matmul": "matrix product",
    "bmm": "matrix product",
    "scaled_dot_product_attention": "attention",
    "multi_head_attention_forward": "attention",
}
"""Functions that make a layer of their own, in people's words."""
JOINS = frozenset({"add", "mul"})
"""Layers only where two computed tensors meet; with a constant or a parameter they are an activation's kin."""

Layout = Literal["chw", "hwc"]


@dataclass(frozen=True)
class Layer:
    """One layer as it ran. Shapes are of one sample, the batch left out.

    Attributes:
        index: position in order of execution; 0 is the input.
        name: dotted path of the module that owns it; "" for the network itself.
        kind: in words, such as "convolution".
        shape: of its output before what follows it.
        follows: what is done to the output next, such as ``("batch_norm", "relu")``.
        inputs: indices of the layers that feed it.
        parameters: numbers that it and what follows it learn.
        macs: multiply-accumulates of one sample.
    """

    index: int
    name: str
    kind: str
    shape: tuple[int, ...]
    follows: tuple[str, ...]
    inputs: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class SpatialMap:
    """The output of a module that is a map: ``shape`` is (C, H, W) of one sample, with more than one place.

    ``tensor`` numbers the outputs: modules that hand the same tensor on have the same number. ``layer`` is the index of
    the :class:`Layer` that made it; ``calls`` how often the module ran.
    """

    name: str
    shape: tuple[int, int, int]
    tensor: int
    layer: int
    calls: int


@dataclass(frozen=True)
class NetworkGraph:
    """Layers in order of execution, of those on the way from the input to the output, and the maps of all modules."""

    layers: tuple[Layer, ...]
    maps: tuple[SpatialMap, ...]
    output: int

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def unavoidable(self) -> frozenset[int]:
        """Indices of the layers that every path from the input to the output goes through."""
        on_all_paths: list[frozenset[int]] = []
        for layer in self.layers:
            # A layer that is fed by constants alone (a class token) begins no path from the input.
            fed = [on_all_paths[i] for i in layer.inputs]
            on_all_paths.append(frozenset({layer.index}).union(frozenset.intersection(*fed) if fed else frozenset()))
        return on_all_paths[self.output]


@dataclass
class _Node:
    """A layer that is being put together."""

    name: str
    kind: str
    shape: tuple[int, ...]
    inputs: list[int]
    follows: list[str] = field(default_factory=list)
    parameters: int = 0
    macs: int = 0


@torch.no_grad()
def read_graph(module: nn.Module, sample: Tensor) -> NetworkGraph:
    """Run ``sample`` (1, C, H, W) through a network in evaluation mode and note what happens.

    Raises:
        ValueError: the network does not return one tensor that depends on its input.
    """
    recorder = _Recorder(sample)
    hooks = [hook for name, part in module.named_modules() if name for hook in recorder.follow(name, part)]
    was_training = module.training
    try:
        with recorder:
            output = module.eval()(sample)
    finally:
        for hook in hooks:
            hook.remove()
        module.train(was_training)
    last = recorder.made.get(id(output)) if isinstance(output, Tensor) else None
    if last is None:
        raise ValueError("the network does not return one tensor computed from its input")
    return recorder.finish(last)


class _Recorder(TorchFunctionMode):
    def __init__(self, sample: Tensor) -> None:
        super().__init__()
        self._nodes = [_Node("", "input", tuple(sample.shape[1:]), [])]
        self.made = {id(sample): 0}
        self._layout: dict[int, Layout] = {id(sample): "chw"}
        # Kept, so that no address is given out twice; numbered in the order in which they came.
        self._kept: list[Tensor] = [sample]
        self._counted: set[int] = set()
        self._path: list[str] = []
        self._maps: list[SpatialMap] = []
        self._calls: dict[str, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor | tuple | list):
            given = list(_tensors((args, tuple(kwargs.values()))))
            sources = [t for t in given if id(t) in self.made]
            made = list(_tensors((result,)))
            if sources and made:
                self._note(_name_of(func), args, given, sources, made)
        return result

    def follow(self, name: str, part: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        """Hooks that keep track of which module is running, and of what it returns."""

        def enter(_module: nn.Module, _inputs: Any) -> None:
            self._path.append(name)

        def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._path.pop()
            self._calls[name] = self._calls.get(name, 0) + 1
            if isinstance(output, Tensor) and self._layout.get(id(output)) == "chw" and output.ndim == 4:
                _, channels, height, width = output.shape
                if height * width > 1 and id(output) in self.made:
                    number = max(i for i, kept in enumerate(self._kept) if kept is output)
                    found = SpatialMap(name, (channels, height, width), number, self.made[id(output)], 1)
                    self._maps.append(found)

        return [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]

    def _note(
        self, name: str, args: Sequence[Any], given: list[Tensor], sources: list[Tensor], made: list[Tensor]
    ) -> None:
        inputs = sorted({self.made[id(t)] for t in sources})
        joins = len({id(t) for t in sources}) > 1
        is_layer = name in LAYERS and (name not in JOINS or joins)
        if name in ("mean", "amax") and made[0].numel() == sources[0].numel():
            is_layer = False
        if is_layer:
            self._nodes.append(_Node(self._path[-1] if self._path else "", LAYERS[name], _shape(name, made[0]), inputs))
            index = len(self._nodes) - 1
            self._nodes[index].macs = _macs(name, given, made[0])
        else:
            index = self.made[id(sources[0])]
            if name not in _SILENT and (not self._nodes[index].follows or self._nodes[index].follows[-1] != name):
                self._nodes[index].follows.append(name)
            # A reshaped or gated tensor still comes from all of its sources.
            self._nodes[index].inputs += [i for i in inputs if i < index and i not in self._nodes[index].inputs]
        for tensor in given:
            if isinstance(tensor, nn.Parameter) and id(tensor) not in self._counted:
                self._counted.add(id(tensor))
                self._nodes[index].parameters += tensor.numel()
        layout = self._layout_after(name, args, sources[0])
        for tensor in made:
            self._kept.append(tensor)
            self.made[id(tensor)] = index
            self._layout.pop(id(tensor), None)
            if layout is not None and tensor.ndim == 4:
                self._layout[id(tensor)] = layout

    def _layout_after(self, name: str, args: Sequence[Any], source: Tensor) -> Layout | None:
        """Whether channels come first or last in a map; ``None`` when that is not known any more."""
        before = self._layout.get(id(source))
        if name in ("conv2d", "conv_transpose2d"):
            return "chw"
        if name == "permute":
            order = tuple(args[1]) if isinstance(args[1], tuple | list) else tuple(args[1:])
            if before == "chw" and order == (0, 2, 3, 1):
                return "hwc"
            return "chw" if before == "hwc" and order == (0, 3, 1, 2) else None
        return None if name in ("transpose", "reshape", "view", "unflatten", "movedim", "swapaxes") else before

    def finish(self, last: int) -> NetworkGraph:
        """Keep what leads to the output, numbered anew."""
        wanted, open_ends = {0, last}, [last]
        while open_ends:
            for index in self._nodes[open_ends.pop()].inputs:
                if index not in wanted:
                    wanted.add(index)
                    open_ends.append(index)
        number = {old: new for new, old in enumerate(sorted(wanted))}
        layers = []
        for old, new in number.items():
            node = self._nodes[old]
            layers.append(
                Layer(
                    new,
                    node.name,
                    node.kind,
                    node.shape,
                    tuple(node.follows),
                    tuple(number[i] for i in node.inputs if i in number),
                    node.parameters,
                    node.macs,
                )
            )
        maps = tuple(
            SpatialMap(m.name, m.shape, m.tensor, number[m.layer], self._calls[m.name])
            for m in self._maps
            if m.layer in number
        )
        return NetworkGraph(tuple(layers), maps, number[last])


_SILENT = frozenset(
    {"reshape", "view", "flatten", "permute", "transpose", "contiguous", "getitem", "expand", "unsqueeze", "squeeze",
     "dropout", "size", "to", "float", "clone", "detach", "chunk", "split", "unbind", "stochastic_depth"}
)  # fmt: skip
"""Functions that move numbers around and change none, at inference."""


def _name_of(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", str(func)).strip("_")
    if name in ("add", "iadd", "radd"):
        return "add"
    return "mul" if name in ("mul", "imul", "rmul", "multiply") else name


def _shape(name: str, made: Tensor) -> tuple[int, ...]:
    """Of one sample. Attention works on (tokens, samples, width), whatever its module is given."""
    if name == "multi_head_attention_forward":
        return (made.shape[0], made.shape[-1])
    return tuple(made.shape[1:])


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _macs(name: str, given: list[Tensor], made: Tensor) -> int:
    """Multiply-accumulates of one sample; those of attention count its projections and both products."""
    outputs = math.prod(made.shape[1:])
    if name in ("conv1d", "conv2d") or name == "linear":
        return outputs * math.prod(given[1].shape[1:])
    if name == "conv_transpose2d":
        return math.prod(given[0].shape[1:]) * math.prod(given[1].shape[1:])
    if name in ("matmul", "bmm"):
        return outputs * given[0].shape[-1]
    if name == "scaled_dot_product_attention":
        query, key, value = (t.shape for t in given[:3])
        return math.prod(query[1:]) * key[-2] + math.prod(query[1:-1]) * key[-2] * value[-1]
    if name == "multi_head_attention_forward":
        tokens, width = math.prod(made.shape) // made.shape[-1], made.shape[-1]
        return 4 * tokens * width * width + 2 * tokens * tokens * width
    return 0
