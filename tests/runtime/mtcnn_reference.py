"""MTCNN's networks in torch, laid out as the published weights name them, and a wheel with random ones."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
from torch import nn

MEMBERS = {stage: f"facenet_pytorch/data/{stage[0]}net.pt" for stage in ("propose", "refine", "outline")}
WIDTHS = {"propose": (10, 16, 32), "refine": (28, 48, 64), "outline": (32, 64, 64, 128)}
KERNELS = {"propose": (3, 3, 3), "refine": (3, 3, 2), "outline": (3, 3, 3, 2)}
POOLS = {"propose": (2,), "refine": (3, 3), "outline": (3, 3, 2)}
HIDDEN = {"refine": (576, 128), "outline": (1152, 256)}


class Network(nn.Module):
    """One of the three; ``forward`` takes RGB, (value - 127.5) / 128, and gives what the paper says: the probabilities
    of (no face, face), the box's four shifts and, of the last, ten numbers of landmarks."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.pools, before = POOLS[stage], 3
        for number, (width, side) in enumerate(zip(WIDTHS[stage], KERNELS[stage], strict=True), start=1):
            setattr(self, f"conv{number}", nn.Conv2d(before, width, side))
            setattr(self, f"prelu{number}", nn.PReLU(width))
            before = width
        self.depth, self.stage = len(WIDTHS[stage]), stage
        dense = self.depth + 1
        outputs = (2, 4, 10) if stage == "outline" else (2, 4)
        if stage == "propose":
            self.heads = [f"conv{dense}_{n + 1}" for n in range(len(outputs))]
            for name, width in zip(self.heads, outputs, strict=True):
                setattr(self, name, nn.Conv2d(before, width, 1))
            return
        self.dense = dense
        setattr(self, f"dense{dense}", nn.Linear(*HIDDEN[stage]))
        setattr(self, f"prelu{dense}", nn.PReLU(HIDDEN[stage][1]))
        self.heads = [f"dense{dense + 1}_{n + 1}" for n in range(len(outputs))]
        for name, width in zip(self.heads, outputs, strict=True):
            setattr(self, name, nn.Linear(HIDDEN[stage][1], width))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        for number in range(1, self.depth + 1):
            x = getattr(self, f"prelu{number}")(getattr(self, f"conv{number}")(x))
            if number <= len(self.pools):
                x = nn.functional.max_pool2d(x, self.pools[number - 1], 2, ceil_mode=True)
        if self.stage != "propose":
            x = x.permute(0, 3, 2, 1).flatten(1)
            x = getattr(self, f"prelu{self.dense}")(getattr(self, f"dense{self.dense}")(x))
        score, *others = (getattr(self, name)(x) for name in self.heads)
        return [score.softmax(1), *others]


def random_networks(seed: int = 0) -> dict[str, Network]:
    torch.manual_seed(seed)
    made = {stage: Network(stage).eval() for stage in MEMBERS}
    for network in made.values():
        for name, values in network.named_parameters():
            if "prelu" in name:  # slopes below 0 and above 1 too
                nn.init.uniform_(values, -0.5, 1.5)
    return made


def write_wheel(path: Path, networks: dict[str, Network]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for stage, network in networks.items():
            file = io.BytesIO()
            torch.save(network.state_dict(), file, _use_new_zipfile_serialization=False)
            archive.writestr(MEMBERS[stage], file.getvalue())
    return path
