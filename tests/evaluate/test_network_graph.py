"""The graph of a network: every layer once, real shapes, who feeds whom, and no parameter lost."""

from __future__ import annotations

import pytest
import torch
from small_networks import Branches, TwoMaps
from torch import nn

from edge_fer.core.bundle import Bundle
from edge_fer.evaluate.network_graph import read_graph
from edge_fer.models.checkpoint import find_checkpoint, load_checkpoint
from edge_fer.models.registry import build_model


def test_a_chain_is_read_in_order_with_its_numbers() -> None:
    graph = read_graph(TwoMaps(), torch.zeros(1, 1, 8, 8))
    assert [(layer.kind, layer.name, layer.shape, layer.inputs) for layer in graph.layers] == [
        ("input", "", (1, 8, 8), ()),
        ("convolution", "conv", (2, 8, 8), (0,)),
        ("average", "", (2,), (1,)),
        ("dense", "fc", (2,), (2,)),
    ]
    conv, fc = graph.layers[1], graph.layers[3]
    assert (conv.follows, conv.parameters, conv.macs) == (("relu",), 2, 128)
    assert (fc.parameters, fc.macs) == (4, 4)
    assert [(m.name, m.shape) for m in graph.maps] == [("conv", (2, 8, 8)), ("relu", (2, 8, 8))]
    assert graph.unavoidable() == {0, 1, 2, 3}


def test_joins_tokens_and_attention_are_found_without_being_modules() -> None:
    network = Branches()
    graph = read_graph(network, torch.zeros(1, 1, 8, 8))
    kinds = [layer.kind for layer in graph.layers]
    assert kinds.count("sum") == 3, "the skip, and the two of the encoder"
    assert kinds.count("product") == 1
    assert kinds.count("concatenation") == 2
    assert kinds.count("attention") == 1
    total = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in network.unused.parameters())
    assert graph.parameters == total - network.token.numel(), "the token is an input of its own, not a layer's"
    skip = next(layer for layer in graph.layers if layer.kind == "sum")
    fed = [graph.layers[i].name for i in skip.inputs]
    assert fed == ["stem.0", "body"]
    attention = next(layer for layer in graph.layers if layer.kind == "attention")
    assert attention.shape == (17, 8)
    names = {m.name for m in graph.maps}
    assert {"stem.0", "stem", "body", "down"} <= names
    through = {graph.layers[i].name for i in graph.unavoidable()}
    assert {"stem.0", "down", "fc"} <= through
    assert "body" not in through


def test_the_default_networks_numbers_are_those_of_its_certificate(shipped: Bundle) -> None:
    checkpoint = load_checkpoint(find_checkpoint())
    graph = read_graph(checkpoint.model, torch.zeros(1, *checkpoint.spec.input_shape))
    assert graph.parameters == shipped.manifest.checkpoint.parameters
    assert graph.macs == shipped.manifest.checkpoint.macs
    assert graph.layers[graph.output].shape == (7,)
    assert [layer.index for layer in graph.layers] == list(range(len(graph.layers)))
    assert all(i < layer.index for layer in graph.layers for i in layer.inputs)


def test_maps_with_channels_last_are_not_taken_for_maps() -> None:
    from edge_fer.core.spec import ModelSpec, PreprocessSpec

    preprocess = PreprocessSpec(size_hw=(32, 32), colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    with torch.device("meta"):
        network = build_model(ModelSpec(name="c", arch="convnext_tiny", preprocess=preprocess))
    network.to_empty(device="cpu")
    graph = read_graph(network, torch.zeros(1, 3, 32, 32))
    names = {m.name for m in graph.maps}
    assert "features.1.0.block.0" in names
    assert not names & {"features.1.0.block.1", "features.1.0.block.3", "features.1.0.block.5"}
    assert "features.1.0.block.6" in names
    assert graph.parameters == sum(p.numel() for p in network.parameters())


def test_reading_leaves_no_trace() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    read_graph(network, torch.ones(1, 1, 8, 8))
    assert network.training
    assert all(module.training for module in network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_network_that_ignores_its_input_is_refused() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 2)

    with pytest.raises(ValueError, match="computed from its input"):
        read_graph(Constant(), torch.zeros(1, 1, 8, 8))
