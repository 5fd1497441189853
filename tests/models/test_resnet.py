"""The residual networks of the seed papers."""

from __future__ import annotations

import pytest
import torch

from edge_fer.core.errors import CheckpointError, UsageError
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.models.registry import ARCHITECTURES, build_model, classifiers
from edge_fer.models.resnet import resnet18, resnet34, resnet50


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts_are_those_of_the_published_networks():
    assert parameters(resnet18(7, 3)) == 11_180_103
    assert parameters(resnet18(7, 1)) == 11_173_831
    assert parameters(resnet34(1000, 3)) == 21_797_672
    assert parameters(resnet50(1000, 3)) == 25_557_032


def test_parameter_names_are_torchvisions():
    names = set(resnet50(1000, 3).state_dict())
    assert len(names) == 320
    for name in (
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.bias",
        "layer3.5.conv2.weight",
        "layer4.2.bn3.num_batches_tracked",
        "fc.bias",
    ):
        assert name in names
    assert len(resnet18(1000, 3).state_dict()) == 122
    assert len(resnet34(1000, 3).state_dict()) == 218


def test_the_bottleneck_strides_in_its_3x3_convolution():
    block = resnet50(7, 3).layer2[0]
    assert block.conv1.stride == (1, 1)
    assert block.conv2.stride == (2, 2)


@pytest.mark.parametrize("arch", classifiers())
@pytest.mark.parametrize("colour", ["gray", "rgb"])
def test_every_architecture_gives_one_logit_per_label_in_either_colour(arch, colour):
    channels = 1 if colour == "gray" else 3
    spec = ModelSpec(
        name="x",
        arch=arch,
        labels=("a", "b", "c"),
        preprocess=PreprocessSpec(size_hw=(64, 48), colour=colour, mean=(0.5,) * channels, std=(0.5,) * channels),
    )
    model = build_model(spec).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, *spec.input_shape)).shape == (2, 3)
    declared = ARCHITECTURES[arch]
    state = model.state_dict()
    assert state[declared.input_weight].shape[1] == channels
    assert state[declared.output_weight].shape[0] == 3


def test_an_unknown_architecture_or_option_is_refused_by_name():
    preprocess = PreprocessSpec(size_hw=(64, 64), colour="gray", mean=(0.5,), std=(0.5,))
    with pytest.raises(UsageError, match="Unknown architecture 'vgg99'"):
        build_model(ModelSpec(name="x", arch="vgg99", preprocess=preprocess))
    with pytest.raises(CheckpointError, match="options of architecture 'resnet18'"):
        build_model(ModelSpec(name="x", arch="resnet18", preprocess=preprocess), {"depth": 3})
