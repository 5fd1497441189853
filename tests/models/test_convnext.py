"""ConvNeXt under torchvision's names."""

from __future__ import annotations

import itertools

import pytest
import torch

from edge_fer.core.errors import CheckpointError
from edge_fer.models.checkpoint import ContractOverrides, load_checkpoint
from edge_fer.models.convnext import ConvNeXt, convnext_base, convnext_small, convnext_tiny


def on_paper(widths: tuple[int, ...], depths: tuple[int, ...], classes: int) -> int:
    """Parameters added up layer by layer from the paper's table, not from the modules."""
    total = 3 * 4 * 4 * widths[0] + widths[0] + 2 * widths[0]
    for width, depth in zip(widths, depths, strict=True):
        depthwise, norm, scale = 7 * 7 * width + width, 2 * width, width
        perceptron = (width * 4 * width + 4 * width) + (4 * width * width + width)
        total += depth * (depthwise + norm + perceptron + scale)
    for before, after in itertools.pairwise(widths):
        total += 2 * before + 2 * 2 * before * after + after
    return total + 2 * widths[-1] + widths[-1] * classes + classes


def small(**options: float) -> ConvNeXt:
    torch.manual_seed(0)
    return ConvNeXt((8, 16, 24, 32), (1, 1, 2, 1), 7, 3, options.get("stochastic_depth", 0.0))


def test_parameter_counts_are_those_of_the_published_networks():
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in build(1000, 3).parameters())
            for build in (convnext_tiny, convnext_small, convnext_base)
        ]
    assert counts == [28_589_128, 50_223_688, 88_591_464]
    assert on_paper((96, 192, 384, 768), (3, 3, 9, 3), 1000) == counts[0]
    with torch.device("meta"):
        seven = sum(p.numel() for p in convnext_tiny().parameters())
    assert seven == counts[0] - 993 * 769


def test_parameter_names_and_shapes_are_torchvisions():
    with torch.device("meta"):
        state = {name: tuple(tensor.shape) for name, tensor in convnext_tiny(1000).state_dict().items()}
    # stem 4, eighteen blocks of 9, three downsamplings of 4, head 4
    assert len(state) == 4 + 18 * 9 + 3 * 4 + 4
    for name, shape in {
        "features.0.0.weight": (96, 3, 4, 4),
        "features.0.1.bias": (96,),
        "features.1.0.layer_scale": (96, 1, 1),
        "features.1.2.block.0.weight": (96, 1, 7, 7),
        "features.2.0.weight": (96,),
        "features.2.1.weight": (192, 96, 2, 2),
        "features.5.8.block.2.bias": (384,),
        "features.5.8.block.3.weight": (1536, 384),
        "features.7.2.block.5.weight": (768, 3072),
        "classifier.0.weight": (768,),
        "classifier.2.weight": (1000, 768),
    }.items():
        assert state[name] == shape


def test_a_plain_torchvision_state_dict_loads_and_its_classes_are_read_off_it(tmp_path):
    torch.manual_seed(0)
    made = convnext_tiny().eval()
    path = tmp_path / "convnext_tiny.pth"
    torch.save(made.state_dict(), path)
    found = load_checkpoint(path, ContractOverrides(arch="convnext_tiny"))
    assert found.spec.input_shape == (3, 224, 224)
    assert len(found.spec.labels) == 7
    inputs = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(found.model(inputs), made(inputs))
    with pytest.raises(CheckpointError):
        load_checkpoint(path, ContractOverrides(arch="resnet18"))


def test_blocks_are_dropped_in_training_only_and_the_expectation_stays():
    model = small(stochastic_depth=0.5)
    blocks = [module for module in model.modules() if hasattr(module, "layer_scale")]
    assert [block.drop for block in blocks] == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    last = blocks[-1]
    torch.nn.init.ones_(last.layer_scale)
    inputs = torch.rand(4000, 32, 1, 1)
    with torch.inference_mode():
        whole = last.eval()(inputs)
        assert torch.equal(last(inputs), whole)
        branch = (last.train()(inputs) - inputs).flatten(1)
        expected = (whole - inputs).flatten(1)
    dropped = (branch == 0).all(dim=1)
    assert 0.45 < dropped.float().mean() < 0.55
    assert torch.allclose(branch[~dropped], 2 * expected[~dropped], atol=1e-5)


def test_the_layer_scale_starts_so_small_that_a_block_is_nearly_the_identity():
    block = small().features[1][0].eval()
    inputs = torch.rand(2, 8, 8, 8)
    with torch.inference_mode():
        gap = (block(inputs) - inputs).abs().max()
    assert 0 < gap < 1e-5
