"""No name of TensorRT that our code touches is missing in a version, unless the code asks first.

The names of eight versions were read off NVIDIA's bindings (``scripts/tensorrt_names.py``) and are committed. Here the
code's syntax tree is held against them; ``test_tensorrt_engine.py`` runs it over each version's names.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from simulated_tensorrt import NAMES, VERSIONS

import edge_fer.backends.tensorrt as package

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(Path(package.__path__[0]).glob("*.py"))

KINDS: dict[str, str] = {
    "trt": "",
    "_trt": "",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "calibration_profile": "IOptimizationProfile",
    "timing_cache": "ITimingCache",
    "runtime": "Runtime",
    "_runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
    "_runtime_cache": "IRuntimeCache",
    "severity": "ILogger.Severity",
    "kinds": "NetworkDefinitionCreationFlag",
}
"""What a variable or attribute of this name is, everywhere in the package."""

GUARDED: dict[str, str] = {
    "IBuilderConfig.int8_calibrator": "only with a calibrator, which make_calibrator refuses where there is none",
    "IBuilderConfig.set_calibration_profile": "likewise",
    "IBuilderConfig.progress_monitor": "only with a monitor, which is None where there is no IProgressMonitor",
    "IBuilderConfig.num_compute_capabilities": "together with set_compute_capability, which is asked for",
    ".ComputeCapability": "likewise",
    "ICudaEngine.create_runtime_config": "only where there is an IRuntimeCache, which open_kernel_cache asks for",
    "IRuntimeConfig.set_execution_context_allocation_strategy": "likewise",
    "IRuntimeConfig.create_runtime_cache": "likewise",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": "likewise",
    ".DynamicShapesKernelSpecializationStrategy": "likewise",
    "DynamicShapesKernelSpecializationStrategy.EAGER": "likewise",
    "IRuntimeConfig.set_runtime_cache": "likewise",
    "IRuntimeCache.deserialize": "likewise",
    "IRuntimeCache.serialize": "likewise",
    ".ExecutionContextAllocationStrategy": "likewise, or asked for",
    "ExecutionContextAllocationStrategy.USER_MANAGED": "likewise, or asked for",
    "ICudaEngine.create_execution_context_without_device_memory": "where there is no strategy for allocations",
    "ICudaEngine.device_memory_size": "where there is no device_memory_size_v2",
    ".IProgressMonitor": "the base class, below a return where it is missing",
    ".IInt8EntropyCalibrator2": "the base class, below an error where it is missing",
}
"""Names that some version lacks and that are not themselves asked for with hasattr, and what keeps them safe."""


def uses(source: Path) -> Iterator[tuple[str, str, int, set[str]]]:
    """(kind, name, line, names asked for with hasattr in the same function) of every touch of TensorRT in a file."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    asked = {
        id(inner): {
            str(call.args[1].value)
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
            and getattr(call.func, "id", "") == "hasattr"
            and isinstance(call.args[1], ast.Constant)
        }
        for function in functions
        for inner in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (kind := kind_of(node.value)) is not None:
            yield kind, node.attr, node.lineno, asked.get(id(node), set())
        elif isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Attribute) and kind_of(base.value) == "":
                    # TensorRT calls these by name.
                    for method in node.body:
                        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                            whole = where(base.attr, method.name) == where("", base.attr)
                            yield base.attr, method.name, method.lineno, {method.name} if whole else set()


def kind_of(node: ast.expr) -> str | None:
    """The class of TensorRT that an expression gives, ``""`` for the module, ``None`` for anything of ours."""
    if isinstance(node, ast.Name):
        return KINDS.get(node.id)
    if isinstance(node, ast.Attribute):
        above = kind_of(node.value)
        if above == "" and node.attr[0].isupper():
            return node.attr
        if above == "ILogger" and node.attr == "Severity":
            return "ILogger.Severity"
        return KINDS.get(node.attr)
    return None


def where(kind: str, name: str) -> list[str]:
    """Versions that have a name."""
    if name.startswith("__") or (kind, name) == ("ILogger", "Severity"):
        return list(VERSIONS)
    found = NAMES["names"].get(kind, {}).get(name, "")
    return list(VERSIONS) if found == "*" else [v for v in VERSIONS if v in found.split(", ")]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_name_is_in_every_version_or_asked_for_first(source: Path) -> None:
    wrong = []
    for kind, name, line, asked in uses(source):
        have = where(kind, name)
        if not have:
            wrong.append(f"{source.name}:{line}: no version of TensorRT has {kind}.{name}")
        elif len(have) < len(VERSIONS) and not {name, kind} & asked and f"{kind}.{name}" not in GUARDED:
            lack = ", ".join(version for version in VERSIONS if version not in have)
            wrong.append(f"{source.name}:{line}: {kind}.{name} is missing in {lack}")
    assert wrong == []


def test_the_check_finds_what_it_is_for(tmp_path: Path) -> None:
    source = tmp_path / "old.py"
    source.write_text(
        "def run(trt, engine, context):\n"
        "    n = engine.num_bindings\n"
        "    context.execute_async_v2([], 0)\n"
        "    engine.num_io_tensor\n"
        "    if hasattr(engine, 'device_memory_size'):\n"
        "        engine.device_memory_size\n"
        "    trt.BuilderFlag.FP16\n"
    )
    lacking = {name for kind, name, _, asked in uses(source) if len(where(kind, name)) < 8 and name not in asked}
    assert lacking == {"num_bindings", "execute_async_v2", "num_io_tensor", "FP16"}


def test_what_is_excused_is_still_in_the_code_and_still_missing_somewhere() -> None:
    touched = {f"{kind}.{name}" for source in SOURCES for kind, name, _, _ in uses(source)}
    assert set(GUARDED) <= touched
    for entry in GUARDED:
        kind, _, name = entry.rpartition(".")
        assert 0 < len(where(kind, name)) < len(VERSIONS), entry


def test_the_code_is_looked_at_at_all() -> None:
    touched = {f"{kind}.{name}" for source in SOURCES for kind, name, _, _ in uses(source)}
    common = {
        "Builder.build_serialized_network",
        "IBuilderConfig.set_memory_pool_limit",
        "ICudaEngine.num_io_tensors",
        "ICudaEngine.get_tensor_name",
        "IExecutionContext.set_tensor_address",
        "IExecutionContext.set_input_shape",
        "IExecutionContext.execute_async_v3",
        "EngineInspector.get_engine_information",
        "IProgressMonitor.step_complete",
        "IInt8EntropyCalibrator2.get_batch",
    }
    assert common <= touched
    old = {"ICudaEngine.num_bindings", "IExecutionContext.execute_async_v2", "IBuilderConfig.max_workspace_size"}
    assert not old & touched


def script() -> ModuleType:
    path = ROOT / "scripts" / "tensorrt_names.py"
    if not path.is_file():
        pytest.skip("needs the repository, not only the package")
    spec = importlib.util.spec_from_file_location("tensorrt_names", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_committed_names_are_those_of_nvidias_bindings(version: str) -> None:
    """Fetches a wheel of about 1.2 MB, and imports it against a stub."""
    names = script()
    if version == names.FULL_WHEEL:
        pytest.skip(f"{version} is one wheel of 549 MB for Python 3.10: see the script's --full-wheel")
    try:
        found = names.read_version(version)
    except names.CannotReadError as error:
        pytest.skip(str(error))
    assert found == names.names_of(version)
