"""GPUs as the driver's own tool tells them, and the table of what each architecture can do.

``nvidia-smi`` is played by a script on the search path: what is under test is how its answers, old and new, are read.
"""

from __future__ import annotations

import copy
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge_fer.bench.gpu import Knowledge, find_gpus, knowledge

Driver = Callable[[str], None]
Table = dict[str, Any]

ANSWERS = "import sys\nquery = next(a for a in sys.argv if a.startswith('--query-gpu='))\n"
OLD = ANSWERS + (
    "if 'compute_cap' in query:\n"
    "    print('Field \"compute_cap\" is not a valid field to query.')\n"
    "    sys.exit(2)\n"
    "print('{name}, 450.80.02, 2002')\n"
)
NEW = ANSWERS + (
    "values = {{'name': '{name}', 'driver_version': '580.65.06', 'memory.total': '{memory}', 'compute_cap': '{cap}'}}\n"
    "print(', '.join(values[field] for field in query.split('=')[1].split(',')))\n"
)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Install an ``nvidia-smi`` that runs the given Python code."""
    if os.name == "nt":
        pytest.skip("needs a script that the system starts by its first line")

    def install(code: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!{sys.executable}\n{code}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


def test_a_current_driver_tells_everything(driver: Driver) -> None:
    driver(NEW.format(name="NVIDIA GeForce MX250", memory=2048, cap="6.1"))
    (gpu,) = find_gpus().gpus
    assert (gpu.name, gpu.driver, gpu.capability, gpu.memory_mb) == ("NVIDIA GeForce MX250", "580.65.06", "6.1", 2048)
    assert gpu.capability_from == "driver"


def test_an_old_driver_that_refuses_the_capability_is_asked_again_and_our_table_fills_in(driver: Driver) -> None:
    driver(OLD.format(name="GeForce MX250"))
    (gpu,) = find_gpus().gpus
    assert (gpu.capability, gpu.capability_from, gpu.memory_mb) == ("6.1", "table", 2002)


def test_a_capability_is_never_guessed(driver: Driver) -> None:
    driver(OLD.format(name="Graphics Device"))
    (gpu,) = find_gpus().gpus
    assert (gpu.capability, gpu.capability_from) == (None, "unknown")


def test_values_that_the_driver_does_not_know_stay_unknown(driver: Driver) -> None:
    driver(NEW.format(name="NVIDIA GB10", memory="[N/A]", cap="12.1"))
    (gpu,) = find_gpus().gpus
    assert (gpu.memory_mb, gpu.capability) == (None, "12.1")


def test_several_gpus_are_all_listed(driver: Driver) -> None:
    driver("print('A, 1, 10, 7.5')\nprint('B, 1, 20, 8.6')\n")
    assert [gpu.name for gpu in find_gpus().gpus] == ["A", "B"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys\nprint('NVIDIA-SMI has failed: no driver')\nsys.exit(9)\n", "NVIDIA-SMI has failed: no driver"),
        ("import sys\nsys.exit(3)\n", "exit status 3"),
        ("print('one, two')\n", "unexpected answer"),
        ("", "lists no GPU"),
    ],
)
def test_a_broken_driver_is_a_finding_not_an_error(driver: Driver, code: str, says: str) -> None:
    driver(code)
    found = find_gpus()
    assert found.gpus == ()
    assert says in found.finding


def test_a_driver_that_hangs_is_given_up(driver: Driver) -> None:
    driver("import time\ntime.sleep(60)\n")
    found = find_gpus(timeout_s=0.2)
    assert found.gpus == ()
    assert found.finding == "nvidia-smi fails: no answer within 0.2 s"


def test_a_driver_that_does_not_start_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.name == "nt":
        pytest.skip("needs a script that the system starts by its first line")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/nowhere/interpreter\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "does not start" in find_gpus().finding


def test_a_machine_without_the_driver_has_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PROGRAMFILES", str(tmp_path))
    assert "nvidia-smi is not installed" in find_gpus().finding


def test_the_mx250_is_known_as_it_is() -> None:
    table = knowledge()
    gpu = table.device("NVIDIA GeForce MX250")
    assert gpu is not None
    pascal = table.architecture(gpu.capability)
    assert pascal is not None
    assert pascal.precisions["fp16"].grade == "pointless"
    assert pascal.precisions["int8"].grade == "best"
    assert pascal.last["driver"].version == "R580"
    assert pascal.last["tensorrt"].version == "8.6"
    assert pascal.last["torch"].version == "2.7.1+cu126"
    assert gpu.bounds_ms["ResNet18 @224"].fp32 == 4 * gpu.bounds_ms["ResNet18 @224"].int8
    assert {bound.how for bound in gpu.bounds_ms.values()} == {"derived"}
    assert "1/64" in pascal.precisions["fp16"].reason
    assert "dp4a" in pascal.precisions["int8"].reason
    assert pascal.last["onnxruntime-gpu"].version.startswith("1.26.0")
    assert any("tensorrt==8.5.3.1" in line.command for line in pascal.install)


def test_a_line_of_pip_says_what_of_the_machine_does_not_fit_it() -> None:
    pascal = knowledge().architecture("6.1")
    assert pascal is not None
    (line,) = (line for line in pascal.install if "tensorrt==8.5.3.1" in line.command)
    assert line.misfits("3.10", "Linux x86_64", "535.183.01") == ()
    assert line.misfits("3.11", "Linux x86_64", "535.183.01") == ("it needs Python 3.10, and this is 3.11",)
    assert line.misfits("3.10", "Linux x86_64", "390.157") == ("it needs a driver from R525 on, and this is 390.157",)
    assert len(line.misfits("3.12", "Windows AMD64", "390.157")) == 3
    # cuda-bindings 12.9 finds nothing in a driver before CUDA 12, nor does that compile the kernels' PTX 8.0.
    assert line.misfits("3.10", "Linux x86_64", "470.223.02") == (
        "it needs a driver from R525 on, and this is 470.223.02",
    )


@pytest.mark.parametrize(
    ("capability", "driver", "command"),
    [
        ("6.1", "535.183.01", "tensorrt==8.5.3.1"),
        ("7.0", "580.65.06", "tensorrt-cu12==10.4.*"),
        ("7.5", "535.183.01", "tensorrt-cu12==10.16.*"),
        ("7.5", "580.65.06", "tensorrt-cu13==11.4.*"),
        ("8.6", "580.65.06", "tensorrt-cu13==11.4.*"),
        ("9.0", "575.51.03", "tensorrt-cu12==10.16.*"),
        ("12.0", "590.44.01", "tensorrt-cu13==11.4.*"),
    ],
)
def test_every_architecture_gets_the_tensorrt_that_serves_it_with_its_driver(
    capability: str, driver: str, command: str
) -> None:
    found = knowledge().architecture(capability)
    assert found is not None
    fitting = [
        line
        for line in found.install
        if line.backend == "tensorrt" and not line.misfits("3.10", "Linux x86_64", driver)
    ]
    assert command in fitting[0].command


def test_every_statement_names_its_source() -> None:
    table = knowledge()
    facts = list(table.facts())
    assert len(facts) > len(table.devices) + 4 * len(table.architectures)
    for fact in facts:
        assert fact.source in table.sources, fact
        assert fact.how in ("read", "measured", "derived"), fact


def drop_a_source(table: Table) -> None:
    table["sources"].pop("throughput")


def leave_a_source_unused(table: Table) -> None:
    table["sources"]["nobody"] = "https://example.org"


def name_no_source(table: Table) -> None:
    del table["devices"][0]["source"]


def remember_only(table: Table) -> None:
    table["devices"][0]["how"] = "recalled"


def repeat_a_device(table: Table) -> None:
    table["devices"].append(table["devices"][0])


def hide_a_device(table: Table) -> None:
    table["devices"].insert(0, {**table["devices"][0], "matches": "RTX"})


def repeat_a_capability(table: Table) -> None:
    table["architectures"].append(table["architectures"][0])


def lead_nowhere(table: Table) -> None:
    table["devices"][0]["capability"] = "99.0"


def forget_a_precision(table: Table) -> None:
    del table["architectures"][0]["precisions"]["int8"]


@pytest.mark.parametrize(
    "spoil",
    [
        drop_a_source,
        leave_a_source_unused,
        name_no_source,
        remember_only,
        repeat_a_device,
        hide_a_device,
        repeat_a_capability,
        lead_nowhere,
        forget_a_precision,
    ],
)
def test_a_table_that_contradicts_itself_is_refused(spoil: Callable[[Table], None]) -> None:
    table = copy.deepcopy(knowledge().model_dump())
    for key in ("architectures", "devices"):
        table[key] = list(table[key])
    Knowledge.model_validate(table)
    spoil(table)
    with pytest.raises(ValidationError):
        Knowledge.model_validate(table)


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("NVIDIA GeForce GTX 1650", "7.5"),
        ("GeForce GTX 1060 6GB", "6.1"),
        ("NVIDIA GeForce RTX 3050 Laptop GPU", "8.6"),
        ("NVIDIA GeForce MX450", "7.5"),
        ("NVIDIA GeForce RTX 2050", "8.6"),
        ("NVIDIA GeForce RTX 2060", "7.5"),
        ("GeForce MX130", "5.0"),
        ("NVIDIA RTX 2000 Ada Generation", None),
    ],
)
def test_a_name_finds_its_own_chip(name: str, capability: str | None) -> None:
    found = knowledge().device(name)
    assert (found.capability if found else None) == capability
