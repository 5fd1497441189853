"""A detector through the whole of compile: real export, real int8, real engines of both backends."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.backends.registry import open_engine
from edge_fer.compile import compile_detector as compiling
from edge_fer.compile.calibrate import open_session, read_calibration, run_logits
from edge_fer.compile.certificate import CALIBRATION_FILE
from edge_fer.compile.compile_detector import agree, compile_detector
from edge_fer.compile.detector_pictures import calibration_batches
from edge_fer.compile.executed import executed_by_onnxruntime
from edge_fer.compile.report import DetectorReport
from edge_fer.compile.request import CompileRequest
from edge_fer.core.bundle import Bundle, open_bundle, record_files
from edge_fer.core.engine import INPUT, OUTPUT, Engine, Slot
from edge_fer.core.errors import BundleError, CheckpointError, UsageError
from edge_fer.core.faces import Faces
from edge_fer.core.manifest import BundleManifest, read_manifest, write_manifest
from edge_fer.core.spec import DetectorSpec
from edge_fer.data.calibration_set import open_calibration_set
from edge_fer.models.checkpoint import holds_detector, load_checkpoint, load_detector, save_checkpoint
from edge_fer.models.registry import build_model

SPEC = DetectorSpec(name="tiny-face", arch="face_pyramid", size_hw=(64, 96), score=0.2)
OPTIONS: dict[str, object] = {"widths": [8, 8, 12, 12], "neck": 8}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    torch.set_num_threads(1)
    model = build_model(SPEC, OPTIONS).train()
    # Batch norms that have seen something, and scores that are not all equal.
    for _ in range(4):
        model(torch.randn(4, 1, 64, 96))
    with torch.no_grad():
        for head in model.heads:
            head[2].weight.normal_(std=0.3)
            head[2].bias[0] = -1.0
    path = tmp_path_factory.mktemp("detector") / "tiny.safetensors"
    save_checkpoint(path, SPEC, OPTIONS, model.eval())
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(40):
        coarse = rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture(scope="module")
def compiled(checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> DetectorReport:
    out = tmp_path_factory.mktemp("bundles") / "tiny-face"
    return compile_detector(CompileRequest(checkpoint=checkpoint, out=out, calibration=pictures, build=False))


def test_the_checkpoint_says_what_it_is(checkpoint: Path) -> None:
    assert holds_detector(checkpoint)
    assert load_detector(checkpoint).spec == SPEC
    with pytest.raises(CheckpointError, match="is a face detector, not an expression network"):
        load_checkpoint(checkpoint)


def test_every_backend_finds_what_the_reference_finds(compiled: DetectorReport) -> None:
    assert compiled.precisions == ("fp32", "int8")
    held = {(item.backend, item.precision): item for item in compiled.held}
    assert held["openvino", "fp32"].agreement == 1.0
    assert not [item.error for item in compiled.held if item.error]
    # An untrained network's scores all lie together, so half precisions are held to their raw outputs here.
    for item in compiled.held:
        if item.parity is not None:
            assert item.parity.mean_gap < (0.1 if item.precision == "int8" else 0.01)


def test_the_graph_is_plain_and_the_arithmetic_runs_in_int8(compiled: DetectorReport) -> None:
    bundle = open_bundle(Path(compiled.bundle))
    fp32 = onnx.load(bundle.file(bundle.variant("fp32").file))
    operators = {node.op_type for node in fp32.graph.node}
    assert operators == {"Conv", "Relu", "Add", "Resize", "Reshape", "Concat"}
    executed = executed_by_onnxruntime(onnx.load(bundle.file(bundle.variant("int8").file)))
    convolutions = sum(node.op_type == "Conv" for node in fp32.graph.node)
    assert executed.int8 >= convolutions - 3 - 2  # all but the three output layers, and what no kernel exists for


class Astray:
    """A real engine whose int8 outputs are spoilt."""

    def __init__(self, engine: Engine, value: float) -> None:
        self._engine, self._value = engine, value
        self.manifest, self.slots = engine.manifest, engine.slots

    def __enter__(self) -> Astray:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def submit(self, slot: Slot, n: int) -> None:
        self._engine.submit(slot, n)

    def wait(self, slot: Slot) -> None:
        self._engine.wait(slot)
        slot.outputs[OUTPUT][:] += np.float32(self._value)


@pytest.mark.parametrize(("value", "says"), [(float("nan"), "NaN or infinite"), (1e3, "something else than its file")])
def test_an_engine_that_computes_no_numbers_or_others_than_its_file_is_not_certified(
    checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, says: str
) -> None:
    real = compiling.open_onnx

    def open_onnx(*arguments: Any, precision: str, **options: Any) -> Any:
        engine = real(*arguments, precision=precision, **options)
        return Astray(engine, value) if precision == "int8" else engine

    monkeypatch.setattr(compiling, "open_onnx", open_onnx)
    request = CompileRequest(
        checkpoint=checkpoint, out=tmp_path / "bundle", calibration=pictures, build=False, backend="onnxruntime"
    )
    (held,) = [one for one in compile_detector(request).held if one.precision == "int8"]
    assert says in (held.error or "")
    manifest = read_manifest(tmp_path / "bundle", BundleManifest)
    assert "int8" not in {record.precision for record in manifest.parity}
    assert manifest.canary.tolerance["int8"] < 100, "the canary is not widened to what strayed"


def test_what_is_not_known_of_the_pictures_stands_in_the_certificate(compiled: DetectorReport, pictures: Path) -> None:
    record = open_bundle(Path(compiled.bundle)).manifest.calibration
    assert record is not None
    assert record.notes == open_calibration_set(pictures).notes != ()


def test_bias_correction_takes_back_what_int8_shifts(
    compiled: DetectorReport, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    request = CompileRequest(
        checkpoint=checkpoint,
        out=tmp_path / "mended",
        calibration=pictures,
        bias_correction=True,
        build=False,
        backend="onnxruntime",
    )
    mended = open_bundle(Path(compile_detector(request).bundle))
    plain = open_bundle(Path(compiled.bundle))
    calibration = read_calibration(mended.file(CALIBRATION_FILE))
    executed = executed_by_onnxruntime(onnx.load(plain.file(plain.variant("int8").file)))
    assert len(calibration.bias_shifts) >= executed.int8
    batch = np.concatenate(list(calibration_batches(open_calibration_set(pictures), SPEC)))

    def outputs(bundle: Bundle, precision: str) -> NDArray[np.float32]:
        return run_logits(open_session(onnx.load(bundle.file(bundle.variant(precision).file)), 1), batch)

    wanted = outputs(plain, "fp32")
    before, after = (np.abs((outputs(b, "int8") - wanted).mean(axis=(0, 2))).mean() for b in (plain, mended))
    assert after < 0.8 * before


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("size", [(64, 96), (32, 32), (96, 128)])
def test_one_bundle_serves_every_input_size(
    compiled: DetectorReport, tmp_path: Path, backend: str, precision: str, size: tuple[int, int]
) -> None:
    bundle = open_bundle(Path(compiled.bundle))
    with open_engine(bundle, backend=backend, precision=precision, max_batch=1, size_hw=size, cache=tmp_path) as engine:
        assert engine.manifest.detector.size_hw == size
        slot = engine.slots[0]
        assert slot.inputs[INPUT].shape == (1, 1, *size)
        slot.inputs[INPUT][:] = np.random.default_rng(1).normal(size=(1, 1, *size))
        engine.submit(slot, 1)
        engine.wait(slot)
        places = sum((size[0] // s) * (size[1] // s) for s in (8, 16, 32))
        assert slot.outputs[OUTPUT].shape == (1, 15, places)
        assert np.isfinite(slot.outputs[OUTPUT]).all()


@pytest.mark.parametrize("size", [(64, 96), (96, 96)])
def test_other_weights_under_the_same_name_are_refused_at_every_size(
    compiled: DetectorReport, tmp_path: Path, size: tuple[int, int]
) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(compiled.bundle, folder)
    manifest = read_manifest(folder, BundleManifest)
    path = folder / "model.fp32.onnx"
    model = onnx.load(path)
    weight = next(t for t in model.graph.initializer if t.name.endswith("stage8.0.0.weight"))
    values = onnx.numpy_helper.to_array(weight) * np.float32(1.1)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    # Whoever edits the weights edits the hashes too: only the canary is left to notice.
    names = [record.name for record in manifest.files]
    write_manifest(folder, manifest.model_copy(update={"files": record_files(folder, names)}))
    with pytest.raises(BundleError, match="gives other"):
        open_engine(
            open_bundle(folder), backend="openvino", precision="fp32", max_batch=1, size_hw=size, cache=tmp_path / "c"
        )


def test_sizes_between_the_strides_are_refused(compiled: DetectorReport, tmp_path: Path) -> None:
    bundle = open_bundle(Path(compiled.bundle))
    with pytest.raises(UsageError, match=r"cannot work at 100x64.*multiples of 32"):
        open_engine(bundle, backend="openvino", precision="fp32", size_hw=(64, 100), cache=tmp_path)


def test_a_detector_is_not_taken_for_an_expression_network(compiled: DetectorReport) -> None:
    manifest = open_bundle(Path(compiled.bundle)).manifest
    with pytest.raises(UsageError, match="tiny-face is a face detector"):
        _ = manifest.classifier
    assert manifest.detector == SPEC


def test_the_detector_opens_by_the_path_of_its_bundle(compiled: DetectorReport, tmp_path: Path) -> None:
    detector = open_face_detector(
        f"edge-fer-face={compiled.bundle}", backend="onnxruntime", precision="fp32", cache=tmp_path
    )
    faces = detector.detect(np.random.default_rng(2).integers(0, 255, (240, 320, 3), dtype=np.uint8))
    assert faces.boxes_xyxy.shape[1] == 4


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("hogwarts", {}, "Unknown detector 'hogwarts'.*edge-fer-face, haar"),
        ("haar", {"precision": "int8"}, "runs on no engine"),
        ("edge-fer-face=nowhere", {}, "No bundle 'nowhere'"),
        ("edge-fer-face=edge-fer-compact", {}, "is an expression network, not a face detector"),
    ],
)
def test_a_wrong_detector_is_one_sentence(text: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_face_detector(text, **options)
    assert re.search(message, f"{caught.value} {caught.value.fix}", re.DOTALL)


def test_options_of_expression_networks_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data does not apply to a face detector"):
        compile_detector(CompileRequest(checkpoint=checkpoint, out=tmp_path / "x", data=tmp_path))


def test_agreement_counts_what_only_one_of_two_finds() -> None:
    first = Faces(np.array([[0, 0, 10, 10], [50, 50, 70, 70]], np.float32), np.ones(2, np.float32))
    second = Faces(np.array([[0, 0, 10, 11]], np.float32), np.ones(1, np.float32))
    answers = iter([first, second])
    share, gap = agree(np.zeros((1, 1)), np.zeros((1, 1)), lambda raw: next(answers))
    assert share == 0.5
    assert gap == 1.0
