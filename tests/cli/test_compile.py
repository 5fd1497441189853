"""``edge-fer compile`` as a user types it: the table, the JSON, and the sentence for what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
import typer
from onnx import numpy_helper
from typer.testing import CliRunner

from edge_fer.backends.choose import choose
from edge_fer.backends.race import Timing
from edge_fer.cli.compile import compile_command
from edge_fer.compile.calibrate import read_calibration
from edge_fer.compile.canary_faces import canary_images
from edge_fer.core.bundle import open_bundle
from edge_fer.core.errors import EdgeFerError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.core.manifest import BundleManifest
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
        assert len(re.findall(rf"^ *{engine} ", text, re.MULTILINE)) >= 2, text
    assert "On 70 faces of" in text
    assert re.search(r"^angry +\d+\.\d% +\d+\.\d% +[+-]\d+\.\d", text, re.MULTILINE), text
    assert "Accuracy gate: switched off" in text
    assert re.search(r"Chosen: \w+ \w+: [\d.]+ ms a face, the fastest that passes", text)
    assert "mse ranges of" in text
    manifest = open_bundle(out).manifest
    assert manifest.gate.applied is False
    assert [trial.verdict for trial in manifest.ladder.trials].count("chosen") == 1


def given_times(monkeypatch: pytest.MonkeyPatch, us: dict[str, float]) -> list[str]:
    """Put a stopwatch with these times by engine (the longest name that fits) in place of the race."""
    timed: list[str] = []

    def stopwatch(entrants, spec, *, threads, progress):
        timed.extend(entrant.name for entrant in entrants)
        best = [max((n for n in us if entrant.name.startswith(n)), key=len) for entrant in entrants]
        return [Timing(rounds_us=(us[name], us[name] * 1.01, us[name] * 0.99)) for name in best]

    monkeypatch.setattr("edge_fer.compile.heats.race", stopwatch)
    return timed


TIMES = {
    "onnxruntime fp32": 1000.0,
    "openvino fp32": 800.0,
    "openvino bf16": 700.0,
    "openvino fp16": 900.0,
    "onnxruntime int8": 500.0,
    "openvino int8": 400.0,
}


def compiled(checkpoint: Path, faces: Path, out: Path, *options: object) -> tuple[str, BundleManifest]:
    text = run(checkpoint, "--precision", "int8", "--calibration", faces, "--out", out, *options)
    return text, open_bundle(out).manifest


def test_the_fastest_by_the_stopwatch_is_chosen_recorded_and_found_again_by_run(
    checkpoint, faces, tmp_path, monkeypatch
):
    timed = given_times(monkeypatch, TIMES)
    text, manifest = compiled(checkpoint, faces, tmp_path / "bundle", "--min-speedup", "1.1")
    assert "Chosen: openvino int8: 0.4 ms a face, the fastest that passes, 2.00 times as fast" in text
    assert "onnxruntime int8 without the first convolution" in timed
    assert manifest.ladder.min_speedup == 1.1
    trial = manifest.ladder.trials[0]
    assert (trial.backend, trial.precision, trial.verdict, trial.speedup) == ("openvino", "int8", "chosen", 2.0)
    choice = choose(open_bundle(tmp_path / "bundle"))
    assert (choice.best.backend, choice.best.precision) == ("openvino", "int8")
    assert choice.reason().startswith("chosen when it was compiled here: 0.4 ms a face")
    assert ";" not in choice.reason(), "every run prints it: what lost stands in the manifest"


def test_int8_that_gains_too_little_is_refused_by_name_and_run_does_not_take_it_either(
    checkpoint, faces, tmp_path, monkeypatch
):
    slow_int8 = TIMES | {"openvino int8": 690.0, "onnxruntime int8": 750.0}
    given_times(monkeypatch, slow_int8)
    text, manifest = compiled(checkpoint, faces, tmp_path / "bundle", "--min-speedup", "1.5")
    assert "Chosen: openvino fp32" in text
    assert re.search(r"openvino int8 refused: 1\.16 times as fast as fp32, and --min-speedup asks for 1\.5", text), text
    refused = {f"{t.backend} {t.precision}" for t in manifest.ladder.trials if t.verdict == "refused"}
    assert refused >= {"openvino int8", "onnxruntime int8"}
    best = choose(open_bundle(tmp_path / "bundle")).best
    assert (best.backend, best.precision) == ("openvino", "fp32")


def test_a_kind_of_layer_that_int8_slows_down_stays_in_fp32(checkpoint, faces, tmp_path, monkeypatch):
    given_times(monkeypatch, TIMES | {"openvino int8 without the first convolution": 300.0})
    text, manifest = compiled(checkpoint, faces, tmp_path / "bundle", "--trt-dialect")
    assert "note: the int8 form for CPUs computes the first convolution in fp32, because that is faster here" in text
    verdicts = {t.verdict: t for t in manifest.ladder.trials if t.backend == "openvino" and t.precision == "int8"}
    assert verdicts["chosen"].float_layers == ("stem.0",)
    assert verdicts["left"].float_layers == ()
    assert "outrun: a form tried with it was faster" in text
    calibration = read_calibration(tmp_path / "bundle" / "calibration.json")
    assert (calibration.float_layers, calibration.cpu_float_layers) == ((), ("stem.0",))
    int8 = {v.dialect: onnx.load(tmp_path / "bundle" / v.file) for v in manifest.variants if v.precision == "int8"}
    quantised = {d: any(t.name == "stem.0.weight.scale" for t in m.graph.initializer) for d, m in int8.items()}
    assert quantised == {"cpu": False, "trt": True}, "what is slow on this CPU says nothing about TensorRT"
    assert "int8-trt" in open_bundle(tmp_path / "bundle").canary().logits


def test_asking_for_fp32_never_ends_in_a_half_precision(checkpoint, tmp_path, monkeypatch):
    timed = given_times(monkeypatch, TIMES)
    text = run(checkpoint, "--precision", "fp32", "--out", tmp_path / "bundle")
    assert "Chosen: openvino fp32" in text
    assert {name.split()[1] for name in timed} == {"fp32"}


def test_bias_correction_changes_biases_and_says_by_how_much(checkpoint, faces, tmp_path):
    common = [checkpoint, "--precision", "int8", "--calibration", faces, "--no-build", "--backend", "onnxruntime"]
    run(*common, "--out", tmp_path / "plain")
    run(*common, "--bias-correction", "--out", tmp_path / "corrected")
    shifts = read_calibration(tmp_path / "corrected" / "calibration.json").bias_shifts
    assert read_calibration(tmp_path / "plain" / "calibration.json").bias_shifts == {}
    assert {name for name, values in shifts.items() if any(values)}
    biases = [
        {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / name / "model.int8.onnx").graph.initializer}
        for name in ("plain", "corrected")
    ]
    changed = [n for n, v in biases[0].items() if n.endswith("bias.quantized") and not np.array_equal(v, biases[1][n])]
    assert changed
    with pytest.raises(UsageError, match="--bias-correction needs faces"):
        run(checkpoint, "--bias-correction", "--out", tmp_path / "none")


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
