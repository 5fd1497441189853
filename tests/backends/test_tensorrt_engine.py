"""The TensorRT backend from bundle to logits, over every version's names and a device that does everything late.

Neither TensorRT nor a GPU is here: ``simulated_tensorrt.py`` stands for the one and ``tests/cuda/simulated.py`` for the
other. What is under test is our side: what is asked of the library, when a plan is built anew, and what is said when
something is missing, full or lost.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_tensorrt import MAGIC, VERSIONS, Machine, has, make

from edge_fer.backends.canary import canary_gap
from edge_fer.backends.choose import candidates, choose, open_best
from edge_fer.backends.registry import open_built_engine, open_engine, open_onnx, require
from edge_fer.backends.tensorrt import library
from edge_fer.backends.tensorrt.calibrated import TABLE_FILE, open_calibrated
from edge_fer.backends.tensorrt.engine import TensorRtEngine
from edge_fer.core.bundle import Bundle, open_bundle
from edge_fer.core.engine import DeviceEngine, DeviceSlot, Engine, Slot
from edge_fer.core.errors import BundleError, DeviceError, DeviceMemoryError, ProviderError, UsageError
from edge_fer.core.manifest import BundleManifest, read_manifest, write_manifest
from edge_fer.cuda.device import DeviceInfo

CUDA_TESTS = Path(__file__).resolve().parents[1] / "cuda"
RTX3050 = DeviceInfo("Simulated RTX 3050", (8, 6), 4 << 30, 12_080, integrated=False, async_engines=1, can_map=True)
PASCAL = ("8.5.3.1", "8.6.1")


def _simulated_device() -> Any:
    spec = importlib.util.spec_from_file_location("simulated_cuda_device", CUDA_TESTS / "simulated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


simulated = _simulated_device()
MX250: DeviceInfo = simulated.MX250

Install = Callable[..., Machine]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped checkpoint, compiled with the form for TensorRT, by its shipped ranges."""
    from edge_fer.compile.compile_model import compile_model
    from edge_fer.compile.request import CompileRequest
    from edge_fer.models.checkpoint import find_checkpoint

    out = tmp_path_factory.mktemp("bundle") / "trt"
    compile_model(CompileRequest(find_checkpoint(None), out=out, trt_dialect=True, build=False, backend="onnxruntime"))
    return open_bundle(out)


@pytest.fixture(scope="session")
def half_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same with the form in fp16."""
    from edge_fer.compile.compile_model import compile_model
    from edge_fer.compile.request import CompileRequest
    from edge_fer.models.checkpoint import find_checkpoint

    out = tmp_path_factory.mktemp("bundle") / "half"
    request = CompileRequest(find_checkpoint(None), out=out, precision="fp16", build=False, backend="onnxruntime")
    compile_model(request)
    return open_bundle(out)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """Put a version of TensorRT and a GPU into this machine, for one test and an engine cache of its own."""
    monkeypatch.setenv("EDGE_FER_CACHE", str(tmp_path / "cache"))
    opened: list[Any] = []

    def put(version: str, info: DeviceInfo = RTX3050, **changes: Any) -> Machine:
        machine = Machine(info, lambda: opened[-1], **changes)
        module = make(version, machine)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        found = (module.__name__, version.removeprefix("rtx "))
        monkeypatch.setattr(library, "installed", lambda: found)

        def open_device(index: int = 0, adapter: str = "cuda-python") -> Any:
            opened.append(simulated.SimulatedDevice(info=info))
            return opened[-1]

        monkeypatch.setattr("edge_fer.cuda.open.open_device", open_device)
        monkeypatch.setattr("edge_fer.cuda.open.describe_device", lambda index=0: info)
        return machine

    yield put
    opened.clear()


def faces(bundle: Bundle, count: int = 8) -> np.ndarray:
    shape = bundle.manifest.model.input_shape
    return np.random.default_rng(3).normal(size=(count, *shape)).astype(np.float32)


def run(engine: Engine, slot: Slot, batch: np.ndarray) -> np.ndarray:
    slot.inputs["input"][: len(batch)] = batch
    engine.submit(slot, len(batch))
    engine.wait(slot)
    return np.array(slot.outputs["logits"][: len(batch)])


@pytest.fixture
def expected(bundle: Bundle) -> np.ndarray:
    """Logits of :func:`faces` by ONNX Runtime in fp32."""
    with open_engine(bundle, backend="onnxruntime", precision="fp32") as engine:
        return run(engine, engine.slots[0], faces(bundle))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_and_runs_every_precision(
    version: str, precision: str, bundle: Bundle, half_bundle: Bundle, install: Install, expected: np.ndarray
) -> None:
    machine = install(version)
    typed = has("NetworkDefinitionCreationFlag", "STRONGLY_TYPED", version)
    # Only 8.x needs to be told that it may; from 10 on the cast graph says where fp16 is safe, and nothing else may.
    flag = has("BuilderFlag", precision.upper(), version) and not (precision == "fp16" and typed)
    source = half_bundle if precision == "fp16" and typed else bundle
    with open_engine(source, backend="tensorrt", precision=precision) as engine:
        assert engine.manifest.device.startswith("Simulated RTX 3050 [sm_86 4096 MiB, driver for CUDA 12.8")
        assert canary_gap(engine, source.canary()) <= source.manifest.canary.tolerance[precision]
        found = run(engine, engine.slots[0], faces(bundle))
        # Noise lies far outside of the calibrated ranges; on faces, the canary has just compared int8.
        if precision != "int8":
            np.testing.assert_allclose(found, expected, atol=0.05 if precision == "fp16" else 1e-4)
        assert isinstance(engine, DeviceEngine)
        assert all(isinstance(slot, DeviceSlot) for slot in engine.slots)
    flags = {precision.upper()} if flag else set()
    if has("BuilderFlag", "REQUIRE_USER_ALLOCATION", version):
        flags.add("REQUIRE_USER_ALLOCATION")
    assert machine.flags == flags, "TF32 is off: fp32 is fp32"
    profile = machine.config._profiles[0]._shapes["input"]
    assert [shape[0] for shape in profile] == [1, 1, 8]


def test_the_plan_is_what_tensorrt_gave_and_everything_about_it_stands_beside_it(
    bundle: Bundle, install: Install, tmp_path: Path
) -> None:
    install("10.16.1")
    open_engine(bundle, backend="tensorrt", precision="int8", cache=tmp_path).close()
    (manifest,) = tmp_path.glob("*/manifest.json")
    folder = manifest.parent
    assert (folder / "model.plan").read_bytes().startswith(MAGIC), "trtexec must load it"
    record = json.loads((folder / "build.json").read_text())
    assert (record["library"], record["flags"], record["max_batch"]) == ("tensorrt 10.16.1", ["INT8"], 8)
    assert json.loads((folder / "layers.json").read_text())["Layers"]
    listed = {entry["name"] for entry in json.loads(manifest.read_text())["files"]}
    assert listed == {"model.plan", "build.json", "layers.json", "canary.npz"}


def test_the_workspace_suits_a_card_of_2_gb(bundle: Bundle, install: Install) -> None:
    machine = install("8.5.3.1", MX250)
    open_engine(bundle, backend="tensorrt", precision="int8").close()
    assert list(machine.config._pools.values()) == [256 << 20]


def test_a_second_opening_builds_nothing(bundle: Bundle, install: Install) -> None:
    machine = install("10.13.3")
    told: list[str] = []
    for _ in range(2):
        open_engine(bundle, backend="tensorrt", precision="int8", on_build=told.append).close()
    assert machine.built == 1
    assert told[0].startswith("Building edge-fer-compact for tensorrt int8")
    assert "TensorRT: building engine, 50 %" in told


def test_versions_without_a_progress_monitor_say_so_once(bundle: Bundle, install: Install) -> None:
    install("8.6.1")
    told: list[str] = []
    open_engine(bundle, backend="tensorrt", precision="int8", on_build=told.append).close()
    assert [line for line in told if "does not tell how far it is" in line] == told[1:]


@pytest.mark.parametrize(
    ("version", "info"),
    [
        ("10.16.1", RTX3050),
        ("10.13.3", replace(RTX3050, name="Simulated RTX 3060")),
        ("10.13.3", replace(RTX3050, driver_version=13_000)),
        ("10.13.3", replace(RTX3050, total_bytes=8 << 30)),
        ("rtx 1.7.1", RTX3050),
    ],
    ids=["another TensorRT", "another GPU", "another driver", "more memory", "another library"],
)
def test_a_plan_of_another_machine_is_recognised_before_tensorrt_sees_it(
    version: str, info: DeviceInfo, bundle: Bundle, install: Install, tmp_path: Path
) -> None:
    install("10.13.3")
    open_engine(bundle, backend="tensorrt", precision="int8", cache=tmp_path).close()
    (folder,) = (path.parent for path in tmp_path.glob("*/manifest.json"))
    machine = install(version, info)
    with pytest.raises(BundleError, match=r"is rebuilt: edge-fer run --engine BUNDLE"):
        open_built_engine(folder)
    assert machine.loaded == 0
    open_engine(bundle, backend="tensorrt", precision="int8", cache=tmp_path).close()
    assert machine.built == 1, "the bundle is simply built again"


@pytest.mark.parametrize("spoil", [lambda data: data[:1000], lambda data: b"", lambda data: b"prefix" + data])
def test_a_damaged_plan_never_reaches_tensorrt(
    spoil: Callable[[bytes], bytes], bundle: Bundle, install: Install, tmp_path: Path
) -> None:
    machine = install("10.13.3")
    open_engine(bundle, backend="tensorrt", precision="int8", cache=tmp_path).close()
    (plan,) = tmp_path.glob("*/model.plan")
    plan.write_bytes(spoil(plan.read_bytes()))
    before = machine.loaded
    with pytest.raises(BundleError, match="damaged or was edited"):
        open_built_engine(plan.parent)
    assert machine.loaded == before
    open_engine(bundle, backend="tensorrt", precision="int8", cache=tmp_path).close()
    assert machine.built == 2


def test_the_engine_of_a_file_without_a_bundle_is_kept_where_that_is_asked_for(
    bundle: Bundle, install: Install, tmp_path: Path
) -> None:
    machine = install("8.6.1", MX250)
    onnx, spec = bundle.file(bundle.variant("fp32").file), bundle.manifest.model

    def opened(max_batch: int = 2) -> None:
        open_onnx(onnx, spec, backend="tensorrt", precision="fp32", max_batch=max_batch, cache=tmp_path).close()

    for _ in range(2):
        opened()
    assert machine.built == 1
    opened(max_batch=1)
    assert machine.built == 2
    for plan in tmp_path.glob("*/model.plan"):
        plan.write_bytes(b"cut short")
    opened()
    assert machine.built == 3


@pytest.mark.parametrize("version", PASCAL)
def test_an_mx250_runs_int8_and_refuses_fp16_with_the_reason(version: str, bundle: Bundle, install: Install) -> None:
    machine = install(version, MX250)
    assert candidates(bundle, "tensorrt", "auto") == [("tensorrt", "fp32"), ("tensorrt", "int8")]
    with pytest.raises(ProviderError, match=r"sm_61\) computes fp16 at 1/64 of its fp32 rate.*--precision int8"):
        open_engine(bundle, backend="tensorrt", precision="fp16")
    assert machine.built == 0
    open_engine(bundle, backend="tensorrt", precision="int8").close()
    assert machine.built == 1


def test_a_tensorrt_that_has_dropped_the_gpu_is_a_sentence(bundle: Bundle, install: Install, tmp_path: Path) -> None:
    install(
        "10.16.1",
        MX250,
        build_error="Target GPU SM 61 is not supported by this TensorRT release: Unsupported SM: 0x601",
    )
    with pytest.raises(DeviceError, match=r"tensorrt 10.16.1 does not serve this GPU: .*0x601.*edge-fer doctor"):
        open_engine(bundle, backend="tensorrt", precision="int8", cache=tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing half-built stays"


def test_a_library_that_does_not_start_gives_its_reason(bundle: Bundle, install: Install) -> None:
    install("10.16.1", runtime_error="CUDA initialization failure with error: 35")
    with pytest.raises(
        DeviceError, match=r"tensorrt 10.16.1 does not start on this GPU: .* error: 35.*edge-fer doctor"
    ):
        open_engine(bundle, backend="tensorrt", precision="int8")


def test_out_of_memory_while_building_names_what_helps(bundle: Bundle, install: Install) -> None:
    install("8.6.1", MX250, build_error="Error Code 2: OutOfMemory (no further information)")
    with pytest.raises(DeviceError, match=r"ran out of memory while tensorrt 8.6.1 built .* up to 8 faces.*nvidia-smi"):
        open_engine(bundle, backend="tensorrt", precision="int8")


def test_a_smaller_batch_is_taken_only_if_asked_and_what_did_not_fit_is_not_tried_again(
    bundle: Bundle, install: Install, tmp_path: Path
) -> None:
    machine = install("8.6.1", MX250, most_faces=2)

    def opened(*, allowed: bool, said: list[str] | None = None) -> tuple[int, str]:
        engine, reason = open_best(
            bundle.path,
            backend="tensorrt",
            precision="int8",
            allow_smaller_batch=allowed,
            on_step=None if said is None else said.append,
        )
        with engine:
            return engine.manifest.max_batch, reason

    with pytest.raises(DeviceMemoryError, match=r"up to 8 faces.*--allow-smaller-batch"):
        opened(allowed=False)
    said: list[str] = []
    small = 2, "the only one that runs here; 2 faces at a time, because the GPU's memory is too small for 8"
    assert opened(allowed=True, said=said) == small
    assert [line for line in said if "too small for" in line] == [
        f"The GPU's memory is too small for {batch} faces at a time; trying fewer" for batch in (8, 4)
    ]
    built = machine.built
    assert opened(allowed=True) == small
    assert machine.built == built, "neither what did not fit nor what does is built again"
    machine.most_faces = 8
    assert opened(allowed=False) == (8, "the only one that runs here")
    assert opened(allowed=True) == (8, "the only one that runs here"), "it has been seen to fit"


def test_not_even_one_face_that_fits_is_one_sentence(bundle: Bundle, install: Install) -> None:
    install("8.6.1", MX250, most_faces=0)
    for _ in range(2):
        with pytest.raises(DeviceMemoryError, match=r"ran out of memory .* up to 1 faces"):
            open_best(bundle.path, backend="tensorrt", precision="int8", allow_smaller_batch=True)


def test_out_of_memory_for_another_slot_is_told_apart(bundle: Bundle, install: Install) -> None:
    install("8.6.1", MX250, contexts=2)
    with pytest.raises(DeviceError, match=r"no memory left for another execution context.*out of memory"):
        open_engine(bundle, backend="tensorrt", precision="int8", slots=2)


def test_any_other_failure_gives_tensorrts_own_words(bundle: Bundle, install: Install) -> None:
    install("11.4.0", build_error="Could not find any implementation for node conv")
    with pytest.raises(
        DeviceError, match=r"tensorrt 11.4.0 cannot build .* in int8: Could not find any implementation"
    ):
        open_engine(bundle, backend="tensorrt", precision="int8")


def test_a_lost_device_is_an_error_with_its_words(bundle: Bundle, install: Install) -> None:
    machine = install("10.13.3")
    with open_engine(bundle, backend="tensorrt", precision="fp32") as engine:
        machine.enqueue_error = "Cuda failure: the launch timed out and was terminated"
        with pytest.raises(DeviceError, match=r"failed during inference of 1 faces: .*timed out"):
            engine.submit(engine.slots[0], 1)
        machine.enqueue_error = ""


@pytest.mark.parametrize("n", [0, 9])
def test_a_batch_outside_the_profile_is_refused(n: int, bundle: Bundle, install: Install) -> None:
    install("10.13.3")
    with open_engine(bundle, backend="tensorrt", precision="fp32") as engine:
        assert isinstance(engine, TensorRtEngine)
        with pytest.raises(ValueError, match=r"1\.\.8"):
            engine.submit(engine.slots[0], n)
        with pytest.raises(ValueError, match=r"1\.\.8"):
            engine.enqueue(engine.slots[0], 1, n)


def test_submit_returns_before_anything_ran_and_wait_makes_it_so(
    bundle: Bundle, install: Install, expected: np.ndarray
) -> None:
    install("8.5.3.1", MX250)
    with open_engine(bundle, backend="tensorrt", precision="fp32") as engine:
        first, second = engine.slots
        batch = faces(bundle)
        for slot, rows in ((first, batch[:3]), (second, batch[3:])):
            slot.outputs["logits"][:] = np.nan
            slot.inputs["input"][: len(rows)] = rows
            engine.submit(slot, len(rows))
        assert np.isnan(first.outputs["logits"]).all()
        engine.wait(second)
        engine.wait(first)
        together = np.concatenate([first.outputs["logits"][:3], second.outputs["logits"][:5]])
        np.testing.assert_allclose(together, expected, atol=1e-4)
        assert np.isnan(first.outputs["logits"][3:]).all(), "rows that were not asked for stay as they were"


def test_another_thread_than_the_one_that_opened_it_may_run_it(
    bundle: Bundle, install: Install, expected: np.ndarray
) -> None:
    install("8.6.1", MX250)
    found: list[np.ndarray] = []
    with open_engine(bundle, backend="tensorrt", precision="fp32") as engine:
        thread = threading.Thread(target=lambda: found.append(run(engine, engine.slots[0], faces(bundle))))
        thread.start()
        thread.join()
        np.testing.assert_allclose(found[0], expected, atol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_slot_runs_every_number_of_faces_in_turn(
    version: str, bundle: Bundle, install: Install, expected: np.ndarray
) -> None:
    """Before 8.6 an optimisation profile serves one execution context only."""
    machine = install(version)
    batch = faces(bundle)
    with open_engine(bundle, backend="tensorrt", precision="fp32", slots=3) as engine:
        before = machine.loaded
        for count in (1, 3, 8, 3, 1):
            for slot in engine.slots:
                np.testing.assert_allclose(run(engine, slot, batch[:count]), expected[:count], atol=1e-4)
        assert isinstance(engine, DeviceEngine)
        assert engine.keeps_captured == (version != "8.5.3.1")
    assert machine.loaded == before, "the weights are in memory once the engine is open"


@pytest.mark.parametrize("version", ["8.6.1", "10.16.1", "rtx 1.7.1"])
def test_a_captured_graph_replays_inference_on_what_the_input_holds_then(
    version: str, bundle: Bundle, install: Install, expected: np.ndarray
) -> None:
    install(version)
    batch = faces(bundle)
    with open_engine(bundle, backend="tensorrt", precision="fp32") as engine:
        assert isinstance(engine, TensorRtEngine)
        device, slot = engine.device, engine.slots[0]
        assert isinstance(slot, DeviceSlot)
        stream = device.stream()
        engine.enqueue(slot, stream.handle, 2)
        stream.synchronize()
        device.begin_capture(stream)
        engine.enqueue(slot, stream.handle, 2)
        graph = device.end_capture(stream)
        host, result = device.pinned((2, *batch.shape[1:]), np.float32), device.pinned((2, 7), np.float32)
        for start in (0, 2, 4):
            # What comes between, with other numbers of faces, does not disturb the graph.
            np.testing.assert_allclose(run(engine, slot, batch[: start + 3]), expected[: start + 3], atol=1e-4)
            host.array[:] = batch[start : start + 2]
            device.copy_to_device(slot.input_pointer, host, host.nbytes, stream)
            graph.launch(stream)
            device.copy_to_host(result, slot.output_pointer, result.nbytes, stream)
            stream.synchronize()
            np.testing.assert_allclose(result.array, expected[start : start + 2], atol=1e-4)


def test_what_the_parser_warns_of_stops_the_build_unless_it_means_nothing(bundle: Bundle, install: Install) -> None:
    machine = install("8.6.1", parser_warnings=("Your ONNX model has been generated with INT64 weights",))
    open_engine(bundle, backend="tensorrt", precision="int8").close()
    assert machine.built == 1
    install("8.6.1", MX250, parser_warnings=("scale is clamped to 1e-38",))
    with pytest.raises(Exception, match=r"would read .* otherwise than it was verified: scale is clamped"):
        open_engine(bundle, backend="tensorrt", precision="int8")


def test_a_bundle_without_the_form_for_tensorrt_names_the_option_that_makes_it(
    shipped: Bundle, install: Install, tmp_path: Path
) -> None:
    older = Path(shutil.copytree(shipped.path, tmp_path / "older"))
    manifest = read_manifest(older, BundleManifest)
    forms = tuple(form for form in manifest.variants if form.dialect != "trt")
    write_manifest(older, manifest.model_copy(update={"variants": forms}))
    install("10.16.1")
    with pytest.raises(UsageError, match=r"no int8 form for the trt dialect.*--trt-dialect"):
        open_engine(open_bundle(older), backend="tensorrt", precision="int8")


def test_an_engine_without_logits_to_be_held_to_is_not_used(bundle: Bundle, install: Install, tmp_path: Path) -> None:
    from edge_fer.core.bundle import Canary, record_files, write_canary

    older = Path(shutil.copytree(bundle.path, tmp_path / "older"))
    canary = bundle.canary()
    write_canary(
        older / "canary.npz", Canary(canary.images_bgr, {k: v for k, v in canary.logits.items() if k != "int8-trt"})
    )
    manifest = read_manifest(older, BundleManifest)
    names = [record.name for record in manifest.files]
    write_manifest(older, manifest.model_copy(update={"files": record_files(older, names)}))
    install("10.16.1")
    with pytest.raises(BundleError, match=r"no logits int8-trt .* cannot be checked.*edge-fer compile"):
        open_engine(open_bundle(older), backend="tensorrt", precision="int8")


def test_kernel_timings_are_kept_for_the_next_build_and_a_foreign_file_of_them_is_replaced(
    bundle: Bundle, half_bundle: Bundle, install: Install, tmp_path: Path
) -> None:
    install("10.13.3")
    open_engine(bundle, backend="tensorrt", precision="int8").close()
    (timings,) = (tmp_path / "cache" / "tensorrt-timings").iterdir()
    assert timings.read_bytes() == b"timings of 10.13.3"
    open_engine(bundle, backend="tensorrt", precision="fp32").close()
    timings.write_bytes(b"something else")
    open_engine(half_bundle, backend="tensorrt", precision="fp16").close()
    assert timings.read_bytes() == b"timings of 10.13.3"
    records = [json.loads(path.read_text()) for path in (tmp_path / "cache").glob("*/build.json")]
    assert {record["precision"]: record["timing_cache"] for record in records} == {
        "int8": "new",
        "fp32": "18 bytes",
        "fp16": "new: the old one did not fit",
    }


def test_kernels_that_tensorrt_for_rtx_compiles_at_a_start_are_kept_for_the_next_one(
    bundle: Bundle, install: Install, tmp_path: Path
) -> None:
    def start(info: DeviceInfo = RTX3050) -> int:
        machine = install("rtx 1.7.1", info)
        with open_engine(bundle, backend="tensorrt", precision="int8") as engine:
            run(engine, engine.slots[0], faces(bundle)[:3])
        return machine.compiled

    def stored() -> set[Path]:
        return set((tmp_path / "cache" / "tensorrt-kernels").iterdir())

    compiled = start()
    assert compiled >= 2, "for one face and for three"
    assert start() == 0
    (kept,) = stored()
    kept.write_bytes(b"another version: []")
    assert start() == compiled
    assert start() == 0
    assert start(replace(RTX3050, driver_version=13_000)) == compiled
    assert len(stored()) == 2


def test_auto_knows_the_gpu_and_leaves_it_out_where_the_library_does_not_load(
    bundle: Bundle, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("10.16.1")
    assert ("tensorrt", "int8") in candidates(bundle, "auto", "int8")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "tensorrt" not in {name for name, _ in candidates(bundle, "auto", "auto")}
    with pytest.raises(DeviceError, match=r"tensorrt 10.16.1 is installed but does not load"):
        choose(bundle, backend="tensorrt")


def test_without_tensorrt_or_without_a_gpu_there_is_one_sentence_each(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver(index: int = 0) -> DeviceInfo:
        raise DeviceError("There is no NVIDIA driver.")

    monkeypatch.setattr("edge_fer.cuda.open.describe_device", no_driver)
    monkeypatch.setattr(library, "installed", lambda: ("tensorrt", "10.16.1"))
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        require("tensorrt")
    monkeypatch.setattr(library, "installed", lambda: None)
    with pytest.raises(DeviceError, match=r"TensorRT is not installed.*edge-fer doctor"):
        require("tensorrt")


def test_compile_builds_the_engine_where_the_gpu_is(install: Install, tmp_path: Path) -> None:
    from edge_fer.compile.compile_model import compile_model
    from edge_fer.compile.request import CompileRequest
    from edge_fer.models.checkpoint import find_checkpoint

    machine = install("8.5.3.1", MX250)
    report = compile_model(CompileRequest(find_checkpoint(None), out=tmp_path / "bundle", backend="tensorrt"))
    assert report.reason.startswith("TensorRT was asked for")
    assert machine.flags == {"INT8"}
    verified = {(one.backend, one.precision): one.error for one in report.candidates if one.backend == "tensorrt"}
    assert verified == {("tensorrt", "fp32"): None, ("tensorrt", "int8"): None}


def test_compile_on_a_machine_without_a_gpu_says_how_to_write_the_bundle_alone(tmp_path: Path) -> None:
    from edge_fer.compile.request import CompileRequest

    if library.installed() is None:
        pytest.skip("needs TensorRT or TensorRT for RTX, without a driver")
    request = CompileRequest(Path("weights.safetensors"), backend="tensorrt")
    try:
        require("tensorrt")
    except DeviceError:
        with pytest.raises(DeviceError, match="--backend tensorrt --no-build"):
            request.check()
    replace(request, build=False).check()


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--demo", "--no-show", "--backend", "tensorrt"],
        ["bench", "--run", "tensorrt:int8"],
        ["compile", "--backend", "tensorrt"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_says_in_one_sentence_that_there_is_no_gpu(command: list[str]) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a driver here")
    done = subprocess.run([sys.executable, "-m", "edge_fer", *command], capture_output=True, text=True, timeout=280)
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("edge-fer: ")
    assert len(done.stderr.strip().splitlines()) <= 3, done.stderr


@pytest.mark.parametrize("version", [v for v in VERSIONS if has("", "IInt8EntropyCalibrator2", v)])
def test_tensorrts_own_calibration_sees_every_face_once_and_its_table_is_used_again(
    version: str, bundle: Bundle, install: Install, tmp_path: Path
) -> None:
    machine = install(version)
    batch = faces(bundle)
    given = [batch[:4], batch[4:], batch[:1]]
    with open_calibrated(bundle, iter(given), tmp_path / "plan") as engine:
        assert engine.manifest.precision == "int8"
        run(engine, engine.slots[0], batch[:2])
    assert len(machine.calibrated) == 2, "the smaller last batch is left out"
    np.testing.assert_array_equal(np.concatenate(machine.calibrated), batch)
    assert (tmp_path / "plan" / TABLE_FILE).read_bytes().startswith(b"TRT-")
    assert "INT8" in machine.flags
    open_calibrated(bundle, iter(given), tmp_path / "plan").close()
    assert machine.table_used
    assert len(machine.calibrated) == 2


def test_a_version_without_calibrators_says_where_ranges_come_from(
    bundle: Bundle, install: Install, tmp_path: Path
) -> None:
    install("11.4.0")
    with pytest.raises(UsageError, match=r"tensorrt 11.4.0 has no calibrator of its own.*--trt-dialect"):
        open_calibrated(bundle, [faces(bundle)], tmp_path)
