"""``edge-fer compile`` as a user types it: the table, the JSON, and the sentence for what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from edge_fer.cli.compile import compile_command
from edge_fer.compile.canary_faces import canary_images
from edge_fer.core.bundle import open_bundle
from edge_fer.core.errors import EdgeFerError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.models.checkpoint import save_checkpoint
from edge_fer.models.registry import build_model

SPEC = ModelSpec(
    name="cli-model",
    arch="compact",
    preprocess=PreprocessSpec(size_hw=(32, 32), colour="gray", mean=(0.5,), std=(0.25,)),
)
OPTIONS: dict[str, object] = {"widths": [8, 8, 8, 8], "depths": [1, 1, 1]}

app = typer.Typer()
app.command()(compile_command)


def run(*arguments: object) -> str:
    """Standard output of a successful call; our own errors come through as they are."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "cli.safetensors"
    save_checkpoint(path, SPEC, OPTIONS, build_model(SPEC, OPTIONS))
    return path


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for index in range(70):
        folder = root / EMOTIONS[index % 7]
        folder.mkdir(exist_ok=True)
        image = canary_images()[index % 12].astype(np.float32) * rng.uniform(0.6, 1.1) + rng.normal(0, 4, (96, 96, 3))
        cv2.imwrite(str(folder / f"{index}.png"), np.clip(image, 0, 255).astype(np.uint8))
    return root


def test_the_table_shows_every_engine_and_says_why_one_was_chosen(checkpoint, faces, tmp_path):
    out = tmp_path / "bundle"
    text = run(checkpoint, "--precision", "int8", "--calibration", faces, "--data", faces, "--no-gate", "--out", out)
    for engine in ("onnxruntime fp32", "onnxruntime int8", "openvino fp32", "openvino int8"):
        assert re.search(rf"^ *{engine}", text, re.MULTILINE), text
    assert "On 70 faces of" in text
    assert "Accuracy gate: switched off" in text
    assert re.search(r"Chosen: \w+ \w+: fastest measured here", text)
    assert "mse ranges of" in text
    assert open_bundle(out).manifest.gate.applied is False


def test_json_on_standard_output_is_nothing_but_json(checkpoint, tmp_path):
    out = tmp_path / "bundle"
    report = json.loads(run(checkpoint, "--precision", "fp32", "--no-build", "--json", "--out", out))
    assert report["model"] == "cli-model"
    assert report["bundle"] == str(out)
    assert {c["backend"] for c in report["candidates"]} == {"onnxruntime", "openvino"}
    assert report["torch_parity"]["max_gap"] < 1e-3


def test_the_bundle_goes_to_engines_and_is_named_after_the_model(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(checkpoint, "--precision", "fp32", "--no-build")
    assert open_bundle(tmp_path / "engines" / "cli-model").manifest.model == SPEC
    run(checkpoint, "--precision", "fp32", "--no-build", "--name", "renamed")
    assert open_bundle(tmp_path / "engines" / "renamed").manifest.model.name == "renamed"


def test_a_plain_state_dict_takes_its_contract_from_the_options(tmp_path):
    torch.manual_seed(0)
    spec = SPEC.model_copy(update={"labels": ("a", "b", "c")})
    torch.save(build_model(spec).state_dict(), tmp_path / "plain.pth")
    out = tmp_path / "out"
    options = ["--arch", "compact", "--labels", "a, b,c", "--size", "32x40", "--mean", "0.4", "--std", "0.2"]
    text = run(tmp_path / "plain.pth", "--precision", "fp32", "--no-build", "--out", out, *options)
    model = open_bundle(out).manifest.model
    assert model.labels == ("a", "b", "c")
    assert model.preprocess.size_hw == (32, 40)
    assert model.preprocess.mean == (0.4,)
    assert "assumed" not in text


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["--size", "big"], 2, "--size 'big' is not a size"),
        (["--mean", "a,b"], 2, "--mean 'a,b' is not a list of numbers"),
        (["--colour", "sepia"], 2, "Unknown colour 'sepia'"),
        (["--arch", "vgg"], 2, "Unknown architecture 'vgg'"),
        (["--precision", "int4"], 2, "Unknown precision 'int4'"),
        (["--backend", "tpu"], 2, "Unknown backend 'tpu'"),
        (["--precision", "int8"], 3, "INT8 needs faces"),
        (["--precision", "int8", "--calibration", "nowhere"], 3, "There is no calibration set nowhere"),
        (["--data", "nowhere"], 3, "nowhere does not exist"),
    ],
)
def test_wrong_requests_give_one_sentence_and_their_exit_code(checkpoint, tmp_path, arguments, exit_code, sentence):
    with pytest.raises(EdgeFerError, match=re.escape(sentence)) as caught:
        run(checkpoint, "--out", tmp_path / "out", *arguments)
    assert caught.value.exit_code == exit_code
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_option_of_a_stored_contract_is_refused(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="carries its own contract, so --labels cannot be given"):
        run(checkpoint, "--labels", "a,b", "--out", tmp_path / "out")
