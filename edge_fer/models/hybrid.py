"""ResNet-50, with a feature pyramid, with a transformer, or with both, after Hu & Kovásznai.

The transformer reads the coarsest map as a sequence: 1x1 convolution to 256 channels, one token a place, a learnt class
token before them and a learnt encoding of the place added; three encoder layers of eight heads; the class token's
output is what the main head sees. With a pyramid, its four levels (P2 to P5) are averaged over their places; each has
an auxiliary head, which only training uses, and without a transformer the main head sees them side by side.

Encoder layers are written out, normalisation after the sum as in Vaswani et al. (2017): torch's own layer takes a
fused path in evaluation that neither exports nor quantises.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edge_fer.models.fpn import WIDTH, TopDown, level_sizes
from edge_fer.models.resnet import resnet50_trunk

MAIN_SHARE = 0.7
"""Of the loss, for the main head; the auxiliary heads share the rest."""
LAYERS, HEADS, FEED_FORWARD, DROPOUT = 3, 8, 1024, 0.1
CLASS_TOKEN_SD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention: ``(N, tokens, width)`` to the same."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, 1 / math.sqrt(width // heads)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        tokens, width = x.shape[1], x.shape[2]

        def split(y: Tensor) -> Tensor:
            return y.reshape(-1, tokens, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = split(self.query(x) * self.scale), split(self.key(x)), split(self.value(x))
        weights = self.dropout((query @ key.transpose(2, 3)).softmax(dim=-1))
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).reshape(-1, tokens, width))
        return mixed


class EncoderLayer(nn.Module):
    """Attention and a feed-forward net, each added to its input and normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width, HEADS, DROPOUT)
        self.norm1 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, FEED_FORWARD), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(FEED_FORWARD, width)
        )
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x)))
        out: Tensor = self.norm2(x + self.dropout(self.feed_forward(x)))
        return out


class TokenEncoder(nn.Module):
    """A feature map ``(N, channels, *grid_hw)`` to one vector ``(N, 256)``: the class token's output."""

    def __init__(self, channels: int, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, WIDTH, 1)
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH) * CLASS_TOKEN_SD)
        self.position = nn.Parameter(torch.randn(1, 1 + grid_hw[0] * grid_hw[1], WIDTH) * CLASS_TOKEN_SD)
        self.layers = nn.Sequential(*(EncoderLayer(WIDTH) for _ in range(LAYERS)))

    def forward(self, x: Tensor) -> Tensor:
        places = self.project(x).flatten(2).transpose(1, 2)
        # Not `expand`: OpenVINO 2026.4 reads wrong places when it concatenates an expanded constant in an int8 network
        # of any batch size. The same values without it.
        token = self.class_token + 0.0 * places[:, :1]
        tokens = torch.cat([token, places], dim=1) + self.position
        out: Tensor = self.layers(tokens)[:, 0]
        return out


class Hybrid(nn.Module):
    """``(N, in_channels, H, W)`` normalised faces to ``(N, num_classes)`` logits.

    Args:
        fpn, transformer: which of the two follow the trunk.
        size_hw: the input size, which the encoding of places is learnt for.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        fpn: bool,
        transformer: bool,
        size_hw: tuple[int, int] = (224, 224),
    ) -> None:
        super().__init__()
        self.backbone = resnet50_trunk(in_channels)
        self.pyramid = TopDown((256, 512, 1024, 2048), level_sizes(size_hw)) if fpn else None
        grid_hw = level_sizes(size_hw)[3]
        self.encoder = TokenEncoder(WIDTH if fpn else 2048, grid_hw) if transformer else None
        seen = WIDTH if transformer else 4 * WIDTH if fpn else 2048
        self.fc = nn.Linear(seen, num_classes)
        self.auxiliary = nn.ModuleList(nn.Linear(WIDTH, num_classes) for _ in range(4 if fpn else 0))

    def _features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the main head and each auxiliary head see."""
        maps = list(self.backbone.levels(x))
        if self.pyramid is None:
            return (maps[3].mean(dim=(2, 3)) if self.encoder is None else self.encoder(maps[3])), []
        maps = self.pyramid(maps)
        pooled = [level.mean(dim=(2, 3)) for level in maps]
        return (torch.cat(pooled, dim=1) if self.encoder is None else self.encoder(maps[3])), pooled

    def forward(self, x: Tensor) -> Tensor:
        if self.pyramid is not None and self.encoder is not None:
            # The main head looks at the coarsest level alone; the others are for the auxiliary heads.
            seen = self.encoder(self.pyramid.coarsest(self.backbone.levels(x)[3]))
        else:
            seen = self._features(x)[0]
        logits: Tensor = self.fc(seen)
        return logits

    def all_heads(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits of the main head and of each auxiliary head, for training; see :data:`MAIN_SHARE`."""
        seen, pooled = self._features(x)
        return self.fc(seen), [head(level) for head, level in zip(self.auxiliary, pooled, strict=True)]


def resnet50_hu(num_classes: int = 7, in_channels: int = 3) -> nn.Module:
    """The ablation's ground: the trunk and one head."""
    return Hybrid(num_classes, in_channels, fpn=False, transformer=False)


def resnet50_fpn_hu(num_classes: int = 7, in_channels: int = 3, size_hw: tuple[int, int] = (224, 224)) -> nn.Module:
    return Hybrid(num_classes, in_channels, fpn=True, transformer=False, size_hw=size_hw)


def resnet50_transformer(
    num_classes: int = 7, in_channels: int = 3, size_hw: tuple[int, int] = (224, 224)
) -> nn.Module:
    return Hybrid(num_classes, in_channels, fpn=False, transformer=True, size_hw=size_hw)


def resnet50_fpn_transformer(
    num_classes: int = 7, in_channels: int = 3, size_hw: tuple[int, int] = (224, 224)
) -> nn.Module:
    return Hybrid(num_classes, in_channels, fpn=True, transformer=True, size_hw=size_hw)


__all__ = [
    "MAIN_SHARE",
    "Hybrid",
    "resnet50_fpn_hu",
    "resnet50_fpn_transformer",
    "resnet50_hu",
    "resnet50_transformer",
]
