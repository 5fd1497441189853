"""Checkpoint to bundle, end to end: real networks, real faces, every backend that is installed."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_networks import COMPACT, COMPACT_RGB, OPTIONS

from edge_fer.backends.canary import check_canary
from edge_fer.backends.race import Stopwatch, Timing
from edge_fer.backends.registry import open_engine, open_onnx
from edge_fer.compile.calibrate import read_calibration
from edge_fer.compile.canary_faces import CEILING, FLOOR, canary_images
from edge_fer.compile.compile_model import compile_model
from edge_fer.compile.report import CompileReport
from edge_fer.compile.request import CompileRequest
from edge_fer.core.bundle import Bundle, Canary, open_bundle
from edge_fer.core.errors import (
    BadInputError,
    BundleError,
    CalibrationError,
    CheckpointError,
    UsageError,
)
from edge_fer.models.checkpoint import ContractOverrides, save_checkpoint


@pytest.fixture(scope="module")
def compiled(tiny_checkpoint: Path, face_folder: Path, tmp_path_factory) -> tuple[CompileReport, Bundle]:
    """The whole way, once: int8 in both dialects, verified on labelled faces, engines built and timed."""
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    report = compile_model(
        CompileRequest(
            checkpoint=tiny_checkpoint,
            out=out,
            precision="int8",
            calibration=face_folder,
            data=face_folder,
            trt_dialect=True,
            max_drop=5.0,
        )
    )
    return report, open_bundle(out)


@pytest.fixture
def request_fp32(tiny_checkpoint: Path, tmp_path: Path) -> CompileRequest:
    return CompileRequest(checkpoint=tiny_checkpoint, out=tmp_path / "out", precision="fp32", build=False)


def test_the_bundle_holds_what_its_manifest_says(compiled):
    report, bundle = compiled
    manifest = bundle.manifest
    assert manifest.model == COMPACT
    assert [(v.precision, v.dialect) for v in manifest.variants] == [("fp32", "any"), ("int8", "cpu"), ("int8", "trt")]
    on_disk = {path.name for path in bundle.path.iterdir()}
    assert on_disk == {"manifest.json", *(record.name for record in manifest.files)}
    assert report.precisions == ("fp32", "int8")
    assert manifest.checkpoint.parameters == report.parameters > 0
    assert manifest.checkpoint.macs == report.macs > 0


def test_nothing_in_the_bundle_tells_where_it_was_made(compiled, tiny_checkpoint, face_folder):
    _, bundle = compiled
    for path in bundle.path.glob("*"):
        content = path.read_bytes()
        for place in (tiny_checkpoint.parent, face_folder.parent, Path.cwd()):
            assert str(place).encode() not in content


def test_parity_is_recorded_for_torch_and_every_backend(compiled):
    report, bundle = compiled
    assert report.torch_parity.reference == "torch fp32"
    assert report.torch_parity.max_gap < 1e-3
    pairs = {(p.backend, p.precision) for p in bundle.manifest.parity}
    assert {("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "int8")} <= pairs
    assert all(p.top1_agreement >= 0.95 for p in bundle.manifest.parity)


def test_accuracy_and_gate_are_recorded_with_their_intervals(compiled):
    report, bundle = compiled
    records = {(a.backend, a.precision): a for a in bundle.manifest.accuracy}
    assert records["onnxruntime", "fp32"].top1 > 0.8, "the fixture's network must have learnt something"
    for record in records.values():
        assert record.n == 168
        assert record.top1_interval[0] <= record.top1 <= record.top1_interval[1]
        assert set(record.per_class_recall) == set(COMPACT.labels)
    gate = bundle.manifest.gate
    assert gate is not None
    assert gate.applied
    assert gate.passed
    assert gate.n == 168
    assert gate.drop_interval[0] <= gate.drop <= gate.drop_interval[1]
    drops = [c.drop for c in report.candidates if c.precision == "int8"]
    assert gate.drop == max(drops)


def test_the_calibration_file_tells_ranges_method_and_samples(compiled):
    _, bundle = compiled
    calibration = read_calibration(bundle.file("calibration.json"))
    record = bundle.manifest.calibration
    assert calibration.method == record.method == "mse"
    assert len(calibration.sample_ids) == record.samples > 100
    assert calibration.data_sha256 == record.data_sha256
    for tensor in calibration.tensors.values():
        assert 0 < tensor.threshold <= max(-tensor.minimum, tensor.maximum) * 1.001
        assert not (tensor.never_negative and tensor.minimum < 0)


def test_engines_are_timed_and_the_fastest_is_chosen(compiled):
    report, _ = compiled
    timed = [c for c in report.candidates if c.median_us is not None]
    assert len(timed) >= 4
    chosen = [c for c in report.candidates if c.chosen]
    assert len(chosen) == 1
    assert chosen[0].median_us == min(c.median_us for c in timed)
    # Which backend it is stands in the table; whether the reason names it too depends on who came second.
    assert report.reason.startswith(f"{chosen[0].median_us / 1e3:.3g} ms a face, the fastest that passes")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_engine_of_the_bundle_passes_its_canary(compiled, backend, precision):
    _, bundle = compiled
    with open_engine(bundle, backend=backend, precision=precision) as engine:
        assert check_canary(engine, bundle.canary()) <= bundle.manifest.canary.tolerance[precision]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("damage", ["colour order", "mean", "size"])
def test_the_canary_catches_a_wrong_contract(compiled, precision, damage):
    """Engines built with other preprocessing than the network was trained with must not start."""
    _, bundle = compiled
    preprocess, canary = COMPACT.preprocess, bundle.canary()
    if damage == "colour order":
        canary = Canary(np.ascontiguousarray(canary.images_bgr[..., ::-1]), canary.logits)
    elif damage == "mean":
        preprocess = preprocess.model_copy(update={"mean": (0.0,), "std": (1.0,)})
    else:
        smaller = np.stack([cv2.resize(image, (12, 12)) for image in canary.images_bgr])
        canary = Canary(smaller, canary.logits)
    spec = COMPACT.model_copy(update={"preprocess": preprocess})
    path = bundle.file(bundle.variant(precision).file)
    with open_onnx(path, spec, backend="onnxruntime", precision=precision) as engine:
        manifest = engine.manifest.model_copy(update={"canary": bundle.manifest.canary})
        engine._manifest = manifest
        with pytest.raises(BundleError, match="gives other logits than the verified model"):
            check_canary(engine, canary)


def test_canary_tolerances_have_a_floor_and_a_ceiling(compiled):
    _, bundle = compiled
    tolerance = bundle.manifest.canary.tolerance
    scale = float(np.abs(bundle.canary().logits["fp32"]).max())
    assert set(tolerance) == set(FLOOR)
    for precision, value in tolerance.items():
        assert FLOOR[precision] * scale * 0.999 <= value <= CEILING[precision] * max(scale, 1) * 1.001
    assert len(bundle.canary().images_bgr) == len(canary_images()) == 16


def test_the_same_ranges_give_the_same_bundle(tiny_checkpoint, face_folder, tmp_path):
    request = CompileRequest(
        checkpoint=tiny_checkpoint,
        out=tmp_path / "once",
        precision="int8",
        calibration=face_folder,
        backend="onnxruntime",
        trt_dialect=True,
        build=False,
    )
    compile_model(request)
    compile_model(replace(request, out=tmp_path / "again"))
    for name in ("model.fp32.onnx", "model.int8.onnx", "model.int8.trt.onnx", "calibration.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()


def test_what_is_not_known_of_a_calibration_set_stands_in_the_certificate(request_fp32, face_folder, tmp_path):
    """A folder without classes is judged by what the fp32 network sees in it: here one class, and then all."""
    one, every = tmp_path / "one", tmp_path / "every"
    for folder, classes in ((one, ["happy"]), (every, ["*"])):
        folder.mkdir()
        for path in (path for name in classes for path in face_folder.glob(f"{name}/*.png")):
            image = cv2.imread(str(path))
            cv2.imwrite(str(folder / path.name), image)
            cv2.imwrite(str(folder / f"lighter-{path.name}"), cv2.add(image, 3))
    request = replace(request_fp32, precision="int8", backend="onnxruntime")
    found = {}
    for folder in (one, every):
        report = compile_model(replace(request, calibration=folder))
        record = open_bundle(Path(report.bundle)).manifest.calibration
        assert [f"calibration: {note}" for note in record.notes] == [n for n in report.notes if "calibration" in n]
        found[folder.name] = " ".join(record.notes)
    assert all("names no classes" in text for text in found.values())
    assert "of these faces happy: ranges of one class may fit no other" in found["one"]
    assert "128 of these faces: " in found["every"]


def test_fp16_is_written_when_asked_for(request_fp32):
    report = compile_model(replace(request_fp32, precision="fp16"))
    bundle = open_bundle(Path(report.bundle))
    assert report.precisions == ("fp32", "fp16")
    assert bundle.record("model.fp16.onnx").bytes < 0.55 * bundle.record("model.fp32.onnx").bytes
    assert set(report.file_bytes) == {"model.fp32.onnx", "model.fp16.onnx"}
    said = next(note for note in report.notes if "model.fp16.onnx" in note)
    assert re.search(r"nothing here ran it as it will run there.*same label .* for \d+\.\d+% of 16 faces", said)


def test_without_faces_int8_is_refused_and_the_default_says_that_it_is_fp32(request_fp32):
    with pytest.raises(CalibrationError, match=r"INT8 needs faces .* none were given.*--calibration DIR"):
        compile_model(replace(request_fp32, precision="int8"))
    assert not request_fp32.out.exists()
    report = compile_model(replace(request_fp32, precision=None))
    assert report.precisions == ("fp32",)
    assert any("int8 needs faces" in note for note in report.notes)


def test_shipped_ranges_are_reused_for_the_same_network_only(
    compiled, tiny, tiny_checkpoint, request_fp32, tmp_path, monkeypatch
):
    _, bundle = compiled
    monkeypatch.setattr("edge_fer.compile.forms.find_bundle", lambda name: bundle.path)
    report = compile_model(replace(request_fp32, precision="int8"))
    assert any("ranges are the shipped ones" in note for note in report.notes)
    made = open_bundle(Path(report.bundle))
    assert made.file("model.int8.onnx").read_bytes() == bundle.file("model.int8.onnx").read_bytes()
    other = tmp_path / "other.safetensors"
    state = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    tiny_copy = type(tiny)(**OPTIONS)
    tiny_copy.load_state_dict(state | {"fc.bias": state["fc.bias"] + 1})
    save_checkpoint(other, COMPACT, OPTIONS, tiny_copy)
    with pytest.raises(CalibrationError, match="INT8 needs faces"):
        compile_model(replace(request_fp32, checkpoint=other, precision="int8"))


def test_a_plain_state_dict_compiles_with_its_architecture_named(resnet, face_folder, tmp_path):
    path = tmp_path / "mine.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in resnet.state_dict().items()}}, path)
    report = compile_model(
        CompileRequest(
            checkpoint=path,
            out=tmp_path / "mine",
            precision="int8",
            calibration=face_folder,
            backend="onnxruntime",
            build=False,
            contract=ContractOverrides(arch="resnet18", size_hw=(64, 64)),
        )
    )
    bundle = open_bundle(tmp_path / "mine")
    assert bundle.manifest.model.name == "mine"
    assert bundle.manifest.model.preprocess.size_hw == (64, 64)
    assert any("--labels" in sentence for sentence in report.assumptions)
    assert {c.backend for c in report.candidates} == {"onnxruntime"}
    int8 = next(c for c in report.candidates if c.precision == "int8")
    assert int8.parity.top1_agreement >= 0.95


def stretched(model: torch.nn.Module) -> torch.nn.Module:
    """The same function, with one channel scaled up by 3000 and its reader's weights down: no scale fits the tensor."""
    changed = type(model)(**OPTIONS)
    changed.load_state_dict(model.state_dict())
    norm, reader = changed.stem[1], changed.stages[0][1][0]
    with torch.no_grad():
        norm.weight[0] *= 3000.0
        norm.bias[0] *= 3000.0
        reader.weight[:, 0] /= 3000.0
    return changed.eval()


def gated(checkpoint: Path, faces: Path, out: Path) -> CompileRequest:
    """Int8 by ranges that clip nothing, held against fp32 on the faces that they were measured on."""
    return CompileRequest(
        checkpoint=checkpoint,
        out=out,
        precision="int8",
        calibration=faces,
        method="minmax",
        data=faces,
        max_drop=3.0,
        backend="onnxruntime",
    )


def test_the_ladder_keeps_the_layers_to_blame_in_fp32(tiny, face_folder, tmp_path):
    """A network that per-tensor int8 cannot represent: the ladder finds the layer, and the rest stays int8."""
    path = tmp_path / "hard.safetensors"
    save_checkpoint(path, COMPACT, OPTIONS, stretched(tiny))
    asked = replace(gated(path, face_folder, tmp_path / "hard"), build=False)
    report = compile_model(asked)
    assert not report.attempts[0].passed
    assert report.attempts[-1].passed
    assert report.gate.passed
    kept = report.attempts[-1].float_layers
    assert set(kept) == {"stem.0", "stages.0.1.0"}
    bundle = open_bundle(tmp_path / "hard")
    assert read_calibration(bundle.file("calibration.json")).float_layers == kept
    ungated = compile_model(replace(asked, gate=False, out=tmp_path / "ungated"))
    assert ungated.gate.applied is False
    assert ungated.gate.passed is False
    assert ungated.attempts == ()


@pytest.fixture
def loud_blue(tiny_rgb, face_folder, tmp_path) -> CompileRequest:
    """A network whose contract scales blue up by 3000 and whose first convolution scales it down: no range fits the
    input, and with the first convolution in fp32 nothing reads it as integers."""
    changed = copy.deepcopy(tiny_rgb)
    with torch.no_grad():
        changed.stem[0].weight[:, 2] /= 3000.0
    preprocess = COMPACT_RGB.preprocess.model_copy(update={"std": (0.25, 0.25, 0.25 / 3000.0)})
    spec = COMPACT_RGB.model_copy(update={"preprocess": preprocess})
    save_checkpoint(tmp_path / "loud.safetensors", spec, OPTIONS, changed)
    return gated(tmp_path / "loud.safetensors", face_folder, tmp_path / "loud")


def times(us: dict[str, float]) -> Stopwatch:
    """A stopwatch that gives these times by what an entrant's name ends with."""

    def stopwatch(entrants, spec, *, threads, progress):
        found = [next(value for end, value in us.items() if entrant.name.endswith(end)) for entrant in entrants]
        return [Timing(rounds_us=(value, value)) for value in found]

    return stopwatch


QUICK = {"fp32": 900.0, "int8": 300.0, "without the first convolution": 400.0, "timed already": 400.0}


def test_a_timed_form_that_passes_is_taken_where_the_fastest_fails_the_gate(loud_blue):
    report = compile_model(loud_blue, stopwatch=times(QUICK | {"without the layers to blame": 420.0}))
    first, second = report.attempts[:2]
    assert (first.how, first.float_layers, first.passed) == ("the fastest form", (), False)
    assert (second.how, second.float_layers, second.passed) == ("timed already", ("stem.0",), True)
    bundle = open_bundle(loud_blue.out)
    assert read_calibration(bundle.file("calibration.json")).float_layers == ("stem.0",), "int8 harms it everywhere"
    assert bundle.manifest.gate.passed
    verdicts = {trial.float_layers: trial for trial in bundle.manifest.ladder.trials if trial.precision == "int8"}
    assert verdicts["stem.0",].verdict == "chosen"
    assert re.match(r"loses \d+\.\d\d points of top-1 \(95 %: ", verdicts[()].why)
    assert any("kept in fp32: stem.0; it was timed, and the form without the layers" in note for note in report.notes)
    with open_engine(bundle, backend="onnxruntime", precision="int8"):
        pass


@pytest.mark.parametrize(("blamed_us", "wins"), [(350.0, "blamed"), (450.0, "timed")])
def test_of_a_timed_form_and_one_without_the_layers_to_blame_the_faster_stays(loud_blue, monkeypatch, blamed_us, wins):
    monkeypatch.setattr("edge_fer.compile.ladder.RUNGS", (2,))  # another form than the timed one
    report = compile_model(loud_blue, stopwatch=times(QUICK | {"without the layers to blame": blamed_us}))
    timed, mended = report.attempts[1:]
    assert (timed.how, mended.how) == ("timed already", "without the layers to blame")
    assert timed.passed
    assert mended.passed
    kept = (mended if wins == "blamed" else timed).float_layers
    manifest = open_bundle(loud_blue.out).manifest
    chosen = next(trial for trial in manifest.ladder.trials if trial.verdict == "chosen")
    assert (chosen.precision, chosen.float_layers) == ("int8", kept)
    assert read_calibration(loud_blue.out / "calibration.json").float_layers == kept
    other = (timed if wins == "blamed" else mended).float_layers
    assert {t.float_layers: t.verdict for t in manifest.ladder.trials if t.precision == "int8"}[other] == "left"


def test_a_timed_form_that_is_slower_than_fp32_is_not_tried(loud_blue):
    report = compile_model(loud_blue, stopwatch=times(QUICK | {"without the first convolution": 950.0}))
    assert "timed already" not in {attempt.how for attempt in report.attempts}
    assert report.attempts[-1].passed


HELD = "stages.1.0.0"


def test_layers_that_shipped_ranges_keep_in_fp32_stay_there_on_every_rung(tiny, face_folder, tmp_path, monkeypatch):
    path = tmp_path / "hard.safetensors"
    save_checkpoint(path, COMPACT, OPTIONS, stretched(tiny))
    asked = CompileRequest(
        checkpoint=path,
        out=tmp_path / "first",
        precision="int8",
        calibration=face_folder,
        method="minmax",
        data=face_folder,
        gate=False,
        backend="onnxruntime",
        build=False,
    )
    compile_model(asked)
    shipped = read_calibration(tmp_path / "first" / "calibration.json").model_copy(update={"float_layers": (HELD,)})
    monkeypatch.setattr("edge_fer.compile.forms.shipped_ranges", lambda spec, model: shipped)
    report = compile_model(
        replace(asked, calibration=None, method=None, gate=True, max_drop=3.0, out=tmp_path / "second")
    )
    assert len(report.attempts) > 1
    assert all(HELD in attempt.float_layers for attempt in report.attempts)
    assert HELD in read_calibration(tmp_path / "second" / "calibration.json").float_layers


def test_int8_that_no_engine_here_computes_leaves_the_bundle_or_is_refused(
    tiny_checkpoint, face_folder, tmp_path, monkeypatch
):
    """Every engine is made to miss: no gap is small enough."""
    monkeypatch.setitem(CEILING, "int8", -1.0)
    asked = CompileRequest(
        checkpoint=tiny_checkpoint,
        out=tmp_path / "out",
        precision="int8",
        calibration=face_folder,
        data=face_folder,
        build=False,
    )
    with pytest.raises(BadInputError, match=r"no engine here runs the int8 form.*onnxruntime int8.*openvino int8"):
        compile_model(asked)
    assert not (tmp_path / "out").exists()
    report = compile_model(replace(asked, precision=None, build=True))
    assert report.precisions == ("fp32",)
    assert any("the bundle has no int8 form" in note for note in report.notes)
    assert {trial.why for trial in report.ladder.trials if trial.precision == "int8"} == {"the bundle has no int8 form"}


def test_when_no_rung_passes_int8_by_name_is_refused_and_the_default_has_none(tiny, face_folder, tmp_path, monkeypatch):
    path = tmp_path / "hard.safetensors"
    save_checkpoint(path, COMPACT, OPTIONS, stretched(tiny))
    monkeypatch.setattr("edge_fer.compile.ladder.RUNGS", ())
    asked = CompileRequest(
        checkpoint=path,
        out=tmp_path / "hard",
        precision="int8",
        calibration=face_folder,
        method="minmax",
        data=face_folder,
        backend="onnxruntime",
        build=False,
    )
    with pytest.raises(BadInputError, match=r"int8 loses .* more than --max-drop 0\.5; nothing was written"):
        compile_model(asked)
    assert not (tmp_path / "hard").exists()
    report = compile_model(replace(asked, precision=None))
    assert report.precisions == ("fp32",)
    assert {path.name for path in (tmp_path / "hard").iterdir()} == {"manifest.json", "canary.npz", "model.fp32.onnx"}
    assert open_bundle(tmp_path / "hard").manifest.gate.passed is False


def test_an_interrupted_compile_leaves_the_old_bundle_and_nothing_else(request_fp32):
    compile_model(request_fp32)
    before = {path.name: path.read_bytes() for path in request_fp32.out.iterdir()}

    def interrupt(what: str, done: int, total: int) -> None:
        if what.startswith("Verifying"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_model(request_fp32, interrupt)
    assert {path.name: path.read_bytes() for path in request_fp32.out.iterdir()} == before
    assert [path.name for path in request_fp32.out.parent.iterdir()] == ["out"]


def test_a_folder_with_other_things_in_it_is_never_replaced(request_fp32, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds other things"):
        compile_model(request_fp32)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UsageError, match="is a file"):
        compile_model(replace(request_fp32, out=tmp_path / "out" / "thesis.tex"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "int4"}, "Unknown precision 'int4'"),
        ({"backend": "coreml"}, "Unknown backend 'coreml'"),
        ({"threads": 0}, "--threads"),
        ({"max_drop": -1.0}, "--max-drop"),
        ({"max_drop": float("nan")}, "--max-drop"),
        ({"min_speedup": 0.0}, "--min-speedup must"),
        ({"min_speedup": 2.0}, "--min-speedup needs engines"),
        ({"calibration": Path("faces")}, "--calibration is for int8"),
        ({"trt_dialect": True}, "--trt-dialect writes an int8 form"),
        ({"precision": "int8", "method": "median"}, "Unknown calibration method 'median'"),
        ({"precision": "int8", "method": "mse"}, "--calibration-method needs faces"),
        ({"split": "test"}, "--split names a part"),
    ],
)
def test_contradictions_are_named_before_any_work(request_fp32, change, message):
    with pytest.raises(UsageError, match=message):
        compile_model(replace(request_fp32, **change))
    assert not request_fp32.out.exists()


def test_bad_inputs_leave_no_bundle(request_fp32, tmp_path):
    (tmp_path / "zero.pt").touch()
    with pytest.raises(CheckpointError, match="0 bytes"):
        compile_model(replace(request_fp32, checkpoint=tmp_path / "zero.pt"))
    with pytest.raises(BadInputError, match="does not exist"):
        compile_model(replace(request_fp32, data=tmp_path / "nowhere"))
    black = tmp_path / "black"
    black.mkdir()
    for index in range(40):
        cv2.imwrite(str(black / f"{index}.png"), np.full((48, 48), index % 6, np.uint8) * np.eye(48, dtype=np.uint8))
    with pytest.raises(CalibrationError, match="not made of faces"):
        compile_model(replace(request_fp32, precision="int8", calibration=black))
    assert not request_fp32.out.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_canary_of_the_shipped_bundle_tells_colour_orders_apart(shipped):
    canary = shipped.canary()
    for precision in ("fp32", "int8"):
        path = shipped.file(shipped.variant(precision).file)
        with open_onnx(path, shipped.manifest.model, backend="onnxruntime", precision=precision) as engine:
            engine._manifest = engine.manifest.model_copy(update={"canary": shipped.manifest.canary})
            check_canary(engine, canary)
            swapped = Canary(np.ascontiguousarray(canary.images_bgr[..., ::-1]), canary.logits)
            with pytest.raises(BundleError, match="gives other logits"):
                check_canary(engine, swapped)
