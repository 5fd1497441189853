"""Checkpoint -> ONNX: the folded fp32 graph from which every other form is made, proved equal to torch."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import nn

from edge_fer.compile.fold import drop_identities, fold_batch_norm, fold_dense, mean_to_pool
from edge_fer.compile.graph import canonical_names, opset_of
from edge_fer.compile.pointwise import dense_to_pointwise
from edge_fer.core.engine import INPUT, OUTPUT
from edge_fer.core.errors import CheckpointError, EdgeFerError
from edge_fer.core.spec import ModelSpec

OPSET = 17
"""The newest opset that TensorRT 8.5 and 8.6, the last for Pascal, can parse."""
PARITY_TOLERANCE = 1e-3
"""Largest accepted gap between torch's logits and the ONNX graph's, relative to the largest logit (at least 1)."""


@dataclass(frozen=True)
class Parity:
    """Agreement of two sets of logits over ``n`` inputs; gaps are absolute."""

    n: int
    top1_agreement: float
    max_gap: float
    mean_gap: float


def compare(reference: NDArray[np.float32], got: NDArray[np.float32]) -> Parity:
    """Compare logits (n, classes)."""
    gap = np.abs(reference.astype(np.float64) - got.astype(np.float64))
    return Parity(
        n=len(reference),
        top1_agreement=float((reference.argmax(axis=1) == got.argmax(axis=1)).mean()),
        max_gap=float(gap.max()),
        mean_gap=float(gap.mean()),
    )


def export_onnx(model: nn.Module, spec: ModelSpec) -> ModelProto:
    """Trace a network in evaluation mode and fold it: opset 17, dynamic batch, ``input`` float32 -> ``logits`` float32.

    Raises:
        CheckpointError: the network does not accept the contract's input or does not give one logit per label.
        EdgeFerError: the exporter wrote something else than it was asked for.
    """
    example = torch.zeros(2, *spec.input_shape)
    model = model.eval()
    try:
        with torch.inference_mode():
            shape = tuple(model(example).shape)
    except RuntimeError as error:
        raise CheckpointError(f"{spec.name} does not run on an input of {spec.input_shape}: {error}.") from None
    if shape != (2, len(spec.labels)):
        raise CheckpointError(f"{spec.name} gives {shape[1:]} values a face for {len(spec.labels)} labels.")
    exported = trace(model, example)
    folded = canonical_names(dense_to_pointwise(fold_dense(mean_to_pool(fold_batch_norm(drop_identities(exported))))))
    _pin_interface(folded, spec)
    onnx.checker.check_model(folded, full_check=True)
    return folded


def trace(
    model: nn.Module, example: torch.Tensor, open_axes: Mapping[str, Mapping[int, str]] | None = None
) -> ModelProto:
    """The network as torch's exporter writes it, batch norms and all.

    Args:
        example: an input (N, C, H, W).
        open_axes: names of the axes that stay free, by tensor; default: the batch of input and output.

    Raises:
        EdgeFerError: the exporter wrote another opset than it was asked for.
    """
    with (
        tempfile.TemporaryDirectory(prefix="edge-fer-", ignore_cleanup_errors=True) as folder,
        warnings.catch_warnings(),
    ):
        path = Path(folder) / "traced.onnx"
        # The TorchScript exporter is deprecated in favour of one that writes opset 18 even where 17 is asked for.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes=open_axes or {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            # PRESERVE keeps the batch norms of a network in evaluation mode: fold.py folds them in float64.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=True,
        )
        exported = onnx.load(path)
    if (version := opset_of(exported)) != OPSET:
        raise EdgeFerError(f"torch exported ONNX opset {version} instead of {OPSET}.")
    return exported


def _pin_interface(model: ModelProto, spec: ModelSpec) -> None:
    """State the shapes that the contract promises, free only in the batch."""
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *spec.input_shape]))
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", len(spec.labels)]))


def check_parity(module: nn.Module, logits: NDArray[np.float32], inputs: NDArray[np.float32], name: str) -> Parity:
    """Compare torch with what another runtime gave for the same inputs (n, C, H, W).

    Raises:
        EdgeFerError: they are not the same function.
    """
    with torch.inference_mode():
        reference = module(torch.from_numpy(inputs)).float().numpy()
    parity = compare(reference, logits)
    limit = PARITY_TOLERANCE * max(1.0, float(np.abs(reference).max()))
    if not parity.max_gap <= limit:
        raise EdgeFerError(
            f"The ONNX graph of {name} does not compute what torch computes: logits differ by {parity.max_gap:.3g}, "
            f"accepted is {limit:.3g}."
        )
    return parity
