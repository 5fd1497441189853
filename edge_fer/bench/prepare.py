"""ONNX files for the architectures of a plan that come without trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_fer.backends.dialects import form_key
from edge_fer.bench.plan import ModelEntry
from edge_fer.core.bundle import find_bundle, open_bundle
from edge_fer.core.errors import MissingDependencyError
from edge_fer.core.spec import Colour, ModelSpec


@dataclass(frozen=True)
class PreparedModel:
    """Where a model's forms lie.

    Attributes:
        spec: its contract.
        bundle: folder of a bundle, when it is one.
        onnx: ONNX files by :func:`edge_fer.backends.dialects.form_key`: ``fp32``, and those that could be made.
        checkpoint: weights for torch; ``None`` when they are not at hand.
        trained: false for untrained weights, whose accuracy means nothing.
    """

    spec: ModelSpec
    bundle: Path | None
    onnx: dict[str, Path]
    checkpoint: Path | None
    trained: bool


def prepare(entry: ModelEntry, folder: Path) -> PreparedModel:
    """Find a bundle's forms, or write those of an untrained architecture into ``folder``.

    Raises:
        MissingDependencyError: torch or onnx is needed and not installed.
        EdgeFerError: the bundle cannot be opened, or the architecture is unknown.
    """
    if entry.bundle is not None:
        return _from_bundle(entry.bundle)
    try:
        return _untrained(entry, folder)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            error.name or "torch", extra="compile", purpose=f"building the untrained {entry.arch}"
        ) from None


def _from_bundle(name: str) -> PreparedModel:
    path = find_bundle(name)
    bundle = open_bundle(path)
    onnx: dict[str, Path] = {form_key(v): bundle.file(v.file) for v in bundle.manifest.variants}
    checkpoint: Path | None = None
    try:
        from edge_fer.core.errors import CheckpointError
        from edge_fer.core.files import sha256_file
        from edge_fer.models.checkpoint import find_checkpoint
    except ModuleNotFoundError:
        return PreparedModel(bundle.manifest.classifier, path, onnx, None, trained=True)
    try:
        found = find_checkpoint(bundle.manifest.model.name)
        # Only the very weights that the bundle was made from may stand beside it in a table.
        checkpoint = found if sha256_file(found) == bundle.manifest.checkpoint.sha256 else None
    except CheckpointError:
        checkpoint = None
    return PreparedModel(bundle.manifest.classifier, path, onnx, checkpoint, trained=True)


def _untrained(entry: ModelEntry, folder: Path) -> PreparedModel:
    import onnx
    import torch

    from edge_fer.compile.calibrate import choose_ranges, collect
    from edge_fer.compile.canary_faces import canary_images, face_batch
    from edge_fer.compile.export_onnx import export_onnx
    from edge_fer.compile.graph import Graph
    from edge_fer.compile.plan import plan_quantisation
    from edge_fer.compile.quantize_int8 import quantize_int8
    from edge_fer.core.labels import EMOTIONS
    from edge_fer.core.spec import PreprocessSpec
    from edge_fer.models.checkpoint import save_checkpoint
    from edge_fer.models.inventory import count
    from edge_fer.models.registry import architecture, build_model

    assert entry.arch is not None
    arch = architecture(entry.arch)
    published: Colour = "gray" if count(entry.arch).input_shape[0] == 1 else "rgb"
    colour = entry.colour or published
    mean, std = (arch.mean[:1], arch.std[:1]) if colour == "gray" else (arch.mean, arch.std)
    spec = ModelSpec(
        name="".join(c if c.isalnum() else "-" for c in entry.name),
        arch=entry.arch,
        labels=EMOTIONS,
        preprocess=PreprocessSpec(size_hw=entry.size_hw or arch.size_hw, colour=colour, mean=mean, std=std),
    )
    torch.manual_seed(0)
    network = build_model(spec).eval()
    checkpoint = folder / f"{spec.name}.safetensors"
    save_checkpoint(checkpoint, spec, {}, network)
    model = export_onnx(network, spec)
    files = {key: folder / f"{spec.name}.{key}.onnx" for key in ("fp32", "int8", "int8-trt")}
    onnx.save(model, files["fp32"])
    # The ranges of a few real faces: untrained weights have no accuracy to lose, and speed does not depend on them.
    faces = face_batch(canary_images(), spec.preprocess)
    plan = plan_quantisation(Graph(model))
    ranges = choose_ranges(collect(model, plan.measured, lambda: iter([faces])), plan, "minmax")
    thresholds = {name: found.threshold for name, found in ranges.items()}
    onnx.save(quantize_int8(model, plan, thresholds, "cpu"), files["int8"])
    onnx.save(quantize_int8(model, plan, thresholds, "trt"), files["int8-trt"])
    return PreparedModel(spec, None, files, checkpoint, trained=False)
