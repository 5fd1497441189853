"""ResNet-50 as trained on VGGFace2 (Cao et al., "VGGFace2: A dataset for recognising faces across pose and age", 2018).

The published network came from Caffe, and differs from torchvision's where no shape shows it: the stride of a stage is
in its first 1x1 convolution and not in the 3x3, the pooling has no border on the left and at the top, and pixels of 0
to 255 lose a mean and are not divided. Weights put into the other network load without a word and mean little, so this
is an architecture of its own. Parameter names are torchvision's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from edge_fer.models.resnet import Bottleneck, ResNet

_BLOCK = re.compile(r"conv([2-5])_(\d+)_(1x1_reduce|3x3|1x1_increase|1x1_proj)(_bn)?\.(\w+)")
_PLACES = {
    "1x1_reduce": ("conv1", "bn1"),
    "3x3": ("conv2", "bn2"),
    "1x1_increase": ("conv3", "bn3"),
    "1x1_proj": ("downsample.0", "downsample.1"),
}


def resnet50_vggface2(num_classes: int = 7, in_channels: int = 3, dropout: float = 0.0) -> nn.Module:
    network = ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, dropout)
    network.maxpool = nn.MaxPool2d(3, stride=2, padding=0, ceil_mode=True)
    for stage in (network.layer2, network.layer3, network.layer4):
        first = stage[0]
        assert isinstance(first, Bottleneck)
        first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
    return network


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published files' names (``conv2_1_1x1_reduce.weight``) as ours (``layer1.0.conv1.weight``).

    Those files take red, green, blue. Names that are not the published ones stay as they are, so that a checkpoint of
    ours passes through unchanged; the classifier of 8,631 people and the 256- or 128-wide features keep theirs too.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = _BLOCK.fullmatch(name)
        if found is not None:
            stage, block, part, is_norm, leaf = found.groups()
            place = _PLACES[part][1 if is_norm else 0]
            renamed[f"layer{int(stage) - 1}.{int(block) - 1}.{place}.{leaf}"] = tensor
        elif name.startswith("conv1_7x7_s2_bn."):
            renamed[name.replace("conv1_7x7_s2_bn.", "bn1.")] = tensor
        elif name.startswith("conv1_7x7_s2."):
            renamed[name.replace("conv1_7x7_s2.", "conv1.")] = tensor
        else:
            renamed[name] = tensor
    return renamed


__all__ = ["our_names", "resnet50_vggface2"]
