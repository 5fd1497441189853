"""What the doctor concludes: a library is believed when it computes, a precision when the silicon has it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edge_fer.bench.backend_probe import RELU_ONNX
from edge_fer.bench.device import FLAGS, Machine, describe_machine
from edge_fer.bench.doctor import (
    Advice,
    GpuReport,
    Library,
    advise,
    cpu_worth,
    examine,
    gpu_worth,
    probe_libraries,
)
from edge_fer.bench.gpu import Gpu, GpuSearch, knowledge
from edge_fer.core.threads import usable_threads

HERE = describe_machine()


def machine(*isa: str, complete: bool = True) -> Machine:
    return HERE.model_copy(update={"isa": isa, "isa_complete": complete})


def report(name: str, capability: str | None) -> GpuReport:
    gpu = Gpu(name=name, driver="1", capability=capability, capability_from="driver", memory_mb=2048)
    architecture = knowledge().architecture(capability) if capability else None
    return GpuReport(gpu=gpu, architecture=architecture, known=knowledge().device(name))


def grades(*isa: str, complete: bool = True) -> dict[str, str]:
    return {worth.precision: worth.grade for worth in cpu_worth(machine(*isa, complete=complete), ())}


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have every Python process started from now on run ``code`` first."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_this_machine_is_described() -> None:
    assert 1 <= HERE.usable_threads == usable_threads()
    assert HERE.cpu
    assert set(HERE.isa) <= set(FLAGS.values())
    if sys.platform == "linux":
        assert HERE.isa_complete
        assert HERE.memory_bytes is not None
        assert HERE.memory_bytes > 1 << 28
        flags = Path("/proc/cpuinfo").read_text().split()
        for theirs, ours in FLAGS.items():
            assert (theirs in flags) == (ours in HERE.isa)


@pytest.mark.parametrize(
    ("isa", "expected"),
    [
        (("AVX2",), {"fp32": "works", "bf16": "pointless", "fp16": "pointless", "int8": "works"}),
        (("AVX2", "AVX-VNNI"), {"fp32": "works", "bf16": "pointless", "fp16": "pointless", "int8": "best"}),
        (("AVX512-VNNI", "AVX512-BF16"), {"fp32": "works", "bf16": "works", "fp16": "pointless", "int8": "best"}),
        (
            ("NEON", "NEON-DOTPROD", "NEON-FP16"),
            {"fp32": "works", "bf16": "pointless", "fp16": "works", "int8": "best"},
        ),
        ((), {"fp32": "works", "bf16": "pointless", "fp16": "pointless", "int8": "pointless"}),
    ],
)
def test_a_precision_is_worth_what_its_instructions_are(isa: tuple[str, ...], expected: dict[str, str]) -> None:
    assert grades(*isa) == expected


def test_what_the_system_does_not_tell_is_unknown_not_absent() -> None:
    assert grades("AVX2", complete=False) == {"fp32": "works", "bf16": "unknown", "fp16": "unknown", "int8": "unknown"}


def test_int8_without_vnni_comes_with_its_warning() -> None:
    reason = next(w.reason for w in cpu_worth(machine("AVX2"), ()) if w.precision == "int8")
    assert "saturate" in reason


def test_fp16_on_an_mx250_is_called_pointless_and_int8_best() -> None:
    worth = {row.precision: row for row in gpu_worth(report("NVIDIA GeForce MX250", "6.1"))}
    assert worth["fp16"].grade == "pointless"
    assert "1/64" in worth["fp16"].reason
    assert worth["int8"].grade == "best"


def test_an_architecture_that_the_table_lacks_is_unknown() -> None:
    (row,) = gpu_worth(report("NVIDIA Something", "99.0"))
    assert row.grade == "unknown"
    assert "99.0" in row.reason


def test_the_probes_network_is_a_valid_relu() -> None:
    onnx = pytest.importorskip("onnx", reason="the compile extra is not installed")
    model = onnx.load_from_string(RELU_ONNX)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Relu"]


def test_installed_libraries_compute_here() -> None:
    (runtime,) = probe_libraries(["onnxruntime"])
    assert runtime.distributions[0].startswith("onnxruntime")
    assert "CPUExecutionProvider" in runtime.devices
    assert "CPUExecutionProvider" in runtime.listed
    assert runtime.used == "CPUExecutionProvider"
    assert runtime.precisions == ("fp32", "int8")
    assert runtime.problems == ()


def test_torch_is_looked_for_but_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the compile extra is not installed")
    (tmp_path / "torch.py").write_text("raise SystemExit('loaded')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (torch,) = probe_libraries(["torch"])
    assert torch.distributions[0].startswith("torch ")
    assert (torch.devices, torch.problems) == ((), ())


def test_a_provider_that_is_listed_but_computes_on_the_cpu_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu lists CUDA wherever it is installed; here the real runtime is made to list it too."""
    plant(
        tmp_path,
        monkeypatch,
        "import onnxruntime\n"
        "listed = onnxruntime.get_available_providers()\n"
        "onnxruntime.get_available_providers = lambda: ['CUDAExecutionProvider', *listed]\n",
    )
    (runtime,) = probe_libraries(["onnxruntime"])
    assert "CUDAExecutionProvider" not in runtime.devices
    assert "CPUExecutionProvider" in runtime.devices
    (problem,) = runtime.problems
    assert "CUDAExecutionProvider is listed but does not load" in problem


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "import os, sys\nsys.stderr.write('libthing.so: no driver\\n')\nsys.stderr.flush()\nos.abort()",
            "libthing.so",
        ),
        ("raise ImportError('DLL load failed')", "does not import: DLL load failed"),
        ("raise RuntimeError('version mismatch')", "version mismatch"),
    ],
)
def test_a_library_that_crashes_or_refuses_takes_nothing_else_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (runtime,) = probe_libraries(["onnxruntime"])
    assert runtime.devices == ()
    assert says in runtime.problems[0]


def advice(*libraries: Library, gpus: tuple[GpuReport, ...] = (), finding: str = "") -> list[Advice]:
    return advise(machine("AVX2", "AVX512-BF16"), gpus, GpuSearch(finding=finding), libraries)


WORKING = Library(name="onnxruntime", distributions=("onnxruntime 1",), devices=("CPU",), precisions=("fp32", "int8"))


def test_missing_parts_come_with_their_pip_line() -> None:
    steps = advice(WORKING, Library(name="openvino", distributions=()), Library(name="torch", distributions=()))
    commands = [step.command for step in steps]
    assert "pip install 'edge-fer[openvino]'" in commands
    assert "pip install 'edge-fer[compile]'" in commands
    assert "bf16" in steps[0].why


def test_two_onnxruntime_packages_are_a_conflict() -> None:
    both = WORKING.model_copy(update={"distributions": ("onnxruntime 1", "onnxruntime-gpu 1")})
    assert "overwrite each other" in advice(both)[0].why


def test_no_working_backend_is_said_first() -> None:
    broken = Library(name="onnxruntime", distributions=("onnxruntime 1",), problems=("does not import: x",))
    whys = [step.why for step in advice(broken)]
    assert whys[:2] == ["onnxruntime: does not import: x", "no inference backend works here"]


def test_a_driver_that_fails_is_named() -> None:
    assert any("driver" in step.why for step in advice(WORKING, finding="nvidia-smi fails: version mismatch"))
    assert not any("driver" in step.why for step in advice(WORKING, finding="no NVIDIA driver"))


def test_a_gpu_gets_no_advice_to_install_what_cannot_use_it() -> None:
    tensorrt = Library(name="tensorrt", distributions=())
    for name, capability in (
        ("NVIDIA GeForce MX250", "6.1"),
        ("NVIDIA V100", "7.0"),
        ("NVIDIA GeForce GTX 980", "5.2"),
    ):
        steps = advice(WORKING, tensorrt, gpus=(report(name, capability),))
        assert not any("edge-fer[tensorrt]" in step.command for step in steps), name


def test_the_whole_examination_finds_the_shipped_model() -> None:
    found = examine()
    assert "is whole" in found.shipped_model
    assert found.measured == ()
    assert {library.name for library in found.libraries} == {"onnxruntime", "openvino", "tensorrt", "torch", "opencv"}
