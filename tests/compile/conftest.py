"""Small networks with trained weights and real faces, made once per run; everything else is the real thing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_networks import COMPACT, COMPACT_RGB, OPTIONS, RESNET

from edge_fer.compile.canary_faces import canary_images, face_batch
from edge_fer.compile.export_onnx import export_onnx
from edge_fer.core.labels import EMOTIONS
from edge_fer.core.spec import ModelSpec
from edge_fer.models.checkpoint import save_checkpoint
from edge_fer.models.registry import build_model


def vary(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another view of a face: shifted, scaled, mirrored and lit differently."""
    matrix = cv2.getRotationMatrix2D((48, 48), float(rng.uniform(-12, 12)), float(rng.uniform(0.9, 1.2)))
    matrix[:, 2] += rng.uniform(-5, 5, 2)
    moved = cv2.warpAffine(image, matrix, (96, 96), borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.5:
        moved = cv2.flip(moved, 1)
    return np.clip(moved * rng.uniform(0.6, 1.2) + rng.uniform(-15, 15), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def faces() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """168 crops (n, 96, 96, 3) BGR of one portrait in seven kinds of light and colour; the kind is the label."""
    rng = np.random.default_rng(7)
    sources = canary_images()[[0, 5, 6, 9, 12, 13, 15]]
    labels = np.repeat(np.arange(7), 24)
    return np.stack([vary(sources[k], rng) for k in labels]), labels


@pytest.fixture(scope="session")
def face_folder(faces: tuple[NDArray[np.uint8], NDArray[np.int64]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same crops as class folders."""
    root = tmp_path_factory.mktemp("faces")
    for index, (image, label) in enumerate(zip(*faces, strict=True)):
        folder = root / EMOTIONS[label]
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{index:03d}.png"), image)
    return root


def _trained(spec: ModelSpec, options: dict[str, object], faces, steps: int) -> torch.nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, labels = faces
    inputs, targets = torch.from_numpy(face_batch(images, spec.preprocess)), torch.from_numpy(labels)
    model = build_model(spec, options).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randperm(len(inputs), generator=generator)[:32]
        loss = torch.nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny(faces) -> torch.nn.Module:
    """A trained 60 k parameter version of the default network for 32x32 grey faces."""
    return _trained(COMPACT, OPTIONS, faces, 200)


@pytest.fixture(scope="session")
def tiny_rgb(faces) -> torch.nn.Module:
    """The same for faces in colour."""
    return _trained(COMPACT_RGB, OPTIONS, faces, 200)


@pytest.fixture(scope="session")
def resnet(faces) -> torch.nn.Module:
    """A ResNet-18 after a few steps of training at 64x64 RGB: real weights' shapes, shortcuts and signed tensors."""
    return _trained(RESNET, {}, faces, 10)


@pytest.fixture(scope="session")
def tiny_onnx(tiny):
    return export_onnx(tiny, COMPACT)


@pytest.fixture(scope="session")
def resnet_onnx(resnet):
    return export_onnx(resnet, RESNET)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, COMPACT, OPTIONS, tiny)
    return path


@pytest.fixture(scope="session")
def tiny_inputs(faces) -> NDArray[np.float32]:
    return face_batch(faces[0], COMPACT.preprocess)


@pytest.fixture(scope="session")
def resnet_inputs(faces) -> NDArray[np.float32]:
    return face_batch(faces[0][::3], RESNET.preprocess)
