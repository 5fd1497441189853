"""Networks small enough to compute by hand, and the contracts that go with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_fer.core.spec import ModelSpec, PreprocessSpec


def contract(labels: tuple[str, ...] = ("happy", "sad"), size: int = 8) -> ModelSpec:
    """Grey, mean 0 and deviation 1: the input is the picture over 255."""
    preprocess = PreprocessSpec(size_hw=(size, size), colour="gray", mean=(0.0,), std=(1.0,))
    return ModelSpec(name="tiny", arch="tiny", labels=labels, preprocess=preprocess)


class TwoMaps(nn.Module):
    """Two maps, 2 and -1 times the input, rectified, averaged; then the logits 3a + b and a - 2b."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.relu = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1))
            self.fc.weight.copy_(torch.tensor([[3.0, 1.0], [1.0, -2.0]]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.relu(self.conv(x)).mean(dim=(2, 3)))
        return logits


class Corner(nn.Module):
    """Happy when the upper left quarter is bright; nothing else counts. Its map says so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.conv.weight.data.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        half = maps.shape[2] // 2
        bright = 8 * maps[:, 0, :half, :half].mean(dim=(1, 2))
        return torch.stack([bright, 4 - bright], dim=1)


class Branches(nn.Module):
    """What a reader of graphs has to cope with: a skip, a gate, a concatenation, tokens, attention and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.gate = nn.Linear(8, 8)
        self.down = nn.Conv2d(16, 8, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fc = nn.Linear(8, 2)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        body = stem + self.body(stem)
        body = body * torch.sigmoid(self.gate(body.mean(dim=(2, 3))))[:, :, None, None]
        low = self.down(torch.cat([stem, body], dim=1))
        tokens = low.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        logits: Tensor = self.fc(self.encoder(tokens)[:, 0])
        return logits
