"""Every network of ``edge-fer models``, from training to the loop: it learns 64 faces, exports exactly, compiles to
int8, and ``edge-fer run`` gives the labels that it learnt, on both CPU engines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.compile.canary_faces import face_batch
from edge_fer.compile.compile_model import compile_model
from edge_fer.compile.request import CompileRequest
from edge_fer.core.labels import EMOTIONS
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.models.checkpoint import save_checkpoint
from edge_fer.models.convnext import Block
from edge_fer.models.registry import build_model, classifiers
from edge_fer.models.resnet import Bottleneck

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHOSEN = ("convnext_tiny", "resemotenet", "resnet50_transformer")
"""One of each kind of arithmetic that no other test takes all the way. EDGE_FER_EVERY_NETWORK=1 takes every network, as
`.ci/run` does in a step of its own: eight minutes of one core."""
NETWORKS = classifiers() if os.environ.get("EDGE_FER_EVERY_NETWORK") else CHOSEN
GREY = {"cnn_baseline", "compact", "resemotenet"}
SIDE, FACES, MOST_STEPS = 32, 64, 60
ROUNDING_APART = 1.5
"""How many times as far from fp32 one engine's int8 may lie on average as another's: they round alike, and an engine
that reads wrong values can stay below the canary's limit (by twice the other's distance it has)."""

Lesson = tuple[list[NDArray[np.uint8]], NDArray[np.int64], Path]


@pytest.fixture(scope="module")
def lesson(faces, tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    """64 faces, their classes, and a folder of them: of FER-2013 where that is at hand, else of one portrait in seven
    kinds of light."""
    root = Path(os.environ.get("EDGE_FER_DATA", "nowhere")) / "fer2013" / "train"
    if root.is_dir():
        files = [path for name in EMOTIONS for path in sorted((root / name).iterdir())[::40][:10]]
        images = [cv2.imread(str(path)) for path in files]
        labels = np.array([EMOTIONS.index(path.parent.name) for path in files], np.int64)
    else:
        images, labels = list(faces[0]), faces[1]
    chosen = np.random.default_rng(0).permutation(len(images))[:FACES]
    assert len(chosen) == FACES
    folder = tmp_path_factory.mktemp("lesson")
    for number, index in enumerate(chosen):
        cv2.imwrite(str(folder / f"{number:02d}.png"), images[index])
    return [images[index] for index in chosen], labels[chosen], folder


def contract(arch: str) -> ModelSpec:
    colour = {"colour": "gray", "mean": (0.5,), "std": (0.25,)}
    if arch not in GREY:
        colour = {"colour": "rgb", "mean": (0.5,) * 3, "std": (0.25,) * 3}
    preprocess = PreprocessSpec.model_validate({"size_hw": (SIDE, SIDE), **colour})
    return ModelSpec(name=arch.replace("_", "-"), arch=arch, preprocess=preprocess)


def learn(spec: ModelSpec, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[nn.Module, float]:
    """The network after the fewest steps, of five at a time, that fit it to the faces, and its accuracy on them.

    Nothing is dropped: to learn a few faces by heart is what is wanted.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_model(spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = inputs.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4 if spec.arch.startswith("resnet50") else 1e-3)
    for part in model.modules():
        if isinstance(part, Block):
            part.drop = 0.0
        if isinstance(part, Bottleneck):
            # A block begins small beside its shortcut, as training makes it: fifty layers of a few steps would
            # otherwise amplify what one engine rounds otherwise than another.
            nn.init.constant_(part.bn3.weight, 0.2)
    accuracy = 0.0
    for step in range(MOST_STEPS):
        for part in model.train().modules():
            if isinstance(part, nn.Dropout):
                part.eval()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 4:
            norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
            for norm in norms:  # so few steps leave a moving average behind the weights
                norm.reset_running_stats()
                norm.momentum = None
            with torch.no_grad():
                if norms:
                    model(inputs)
                accuracy = float((model.eval()(inputs).argmax(1) == labels).float().mean())
            if accuracy > 0.98:
                break
    return model.eval().requires_grad_(False), accuracy


@pytest.mark.parametrize("arch", NETWORKS)
def test_it_learns_exports_compiles_to_int8_and_runs_in_the_loop(
    arch: str, lesson: Lesson, slim_resemotenet, tmp_path: Path
) -> None:
    images, labels, folder = lesson
    spec = contract(arch)
    inputs = torch.from_numpy(face_batch(np.stack(images), spec.preprocess))
    checkpoint, bundle = tmp_path / "weights.safetensors", tmp_path / "bundle"
    with slim_resemotenet():
        model, accuracy = learn(spec, inputs, torch.from_numpy(labels))
        assert accuracy > 0.95
        largest = float(model(inputs).abs().max())
        save_checkpoint(checkpoint, spec, {}, model)
        report = compile_model(
            CompileRequest(checkpoint=checkpoint, out=bundle, precision="int8", calibration=folder, build=False)
        )
    assert report.torch_parity.n == FACES
    assert report.torch_parity.max_gap < 1e-4 * max(1.0, largest)
    assert [found.error for found in report.candidates if found.error is not None] == []
    int8 = [found.parity.mean_gap for found in report.candidates if found.precision == "int8" and found.parity]
    assert max(int8) < ROUNDING_APART * min(int8)
    for backend in ("onnxruntime", "openvino"):
        lines = tmp_path / f"{backend}.jsonl"
        order = ["run", "--source", str(folder), "--engine", str(bundle), "--backend", backend, "--precision", "int8"]
        done = CliRunner().invoke(app, [*order, "--detector", "none", "--no-show", "--jsonl", str(lines)])
        assert done.exit_code == 0, done.output
        rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
        found = [row["faces"][0]["label"] for row in rows if row["faces"]]
        right = np.mean([label == EMOTIONS[wanted] for label, wanted in zip(found, labels, strict=True)])
        assert right > 0.9, f"{arch} on {backend}: {right:.0%}"
