"""Read the names off NVIDIA's real Python bindings of TensorRT, without a GPU, a driver or TensorRT itself.

    python scripts/tensorrt_names.py --write          # all versions -> tests/backends/tensorrt_names.json
    python scripts/tensorrt_names.py --check 8.6.1    # exit status 1 when the committed names of a version differ

The bindings are small wheels (about 1.2 MB) that link against libnvinfer and its companions. Here they link against a
stub that only has the symbols, so they import and show their classes and enums, but nothing behind them works. pip
fetches the wheels from PyPI; TensorRT for RTX is read from the installed package. Version 8.5.3.1 came as one wheel of
549 MB that needs Python 3.10, so it is read only with ``--full-wheel FILE --python python3.10``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAMES = Path(__file__).resolve().parents[1] / "tests" / "backends" / "tensorrt_names.json"
FULL_WHEEL = "8.5.3.1"
RTX = "rtx 1.7.1"
WHEELS: dict[str, str] = {
    "8.6.1": "tensorrt_bindings==8.6.1",
    "10.0.1": "tensorrt_cu12_bindings==10.0.1",
    "10.13.3": "tensorrt_cu12_bindings==10.13.3.9",
    "10.16.1": "tensorrt_cu13_bindings==10.16.1.11",
    "11.0.0": "tensorrt_cu13_bindings==11.0.0.114",
    "11.4.0": "tensorrt_cu13_bindings==11.4.0.106",
}
"""Wheels that are published for the Python that runs this script (3.8 to 3.11 for 8.6.1)."""
VERSIONS = (FULL_WHEEL, *WHEELS, RTX)
CLASSES = (
    "Builder",
    "BuilderFlag",
    "ComputeCapability",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInspector",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "IInt8EntropyCalibrator2",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "PreviewFeature",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
)
"""Classes whose members are recorded; of the module itself, all names are."""
SYMBOLS = (
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getInferLibVersion",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
"""What the bindings of all these versions want from NVIDIA's libraries (``nm -D --undefined-only tensorrt.so``)."""
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin", "nvparsers")

READ = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
def public(kind):
    left_out = ("name", "value") if hasattr(kind, "__members__") else ()  # every member of an enum has these two
    return sorted(n for n in dir(kind) if not n.startswith("_") and n not in left_out)
kinds = {name: public(getattr(module, name)) for name in sys.argv[2:] if hasattr(module, name)}
if "ILogger" in kinds:
    kinds["ILogger.Severity"] = public(module.ILogger.Severity)
kinds[""] = sorted(n for n in dir(module) if n[0].isupper())
print(json.dumps(kinds))
"""


class CannotReadError(Exception):
    """Why the names of a version cannot be read here."""


def make_stub(folder: Path, major: str) -> None:
    """Compile libraries of the names that the bindings link against, with symbols and nothing behind them.

    Raises:
        CannotReadError: there is no C compiler.
    """
    source = folder / "stub.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    library = folder / "libnvinfer.stub.so"
    try:
        subprocess.run(
            [os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-o", str(library), str(source)],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotReadError(f"no C compiler for the stub: {error}") from None
    for name in LIBRARIES:
        (folder / f"lib{name}.so.{major}").write_bytes(library.read_bytes())


def fetch(requirement: str, folder: Path) -> Path:
    """The wheel of a requirement, by pip.

    Raises:
        CannotReadError: pip cannot get it (no network, or no wheel for this Python and system).
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    done = subprocess.run([*command, "-d", str(folder), requirement], capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:] or ["no wheel"]
        raise CannotReadError(f"pip cannot download {requirement}: {last[0]}")
    return wheels[0]


def read_wheel(wheel: Path, major: str, python: str = sys.executable) -> dict[str, list[str]]:
    """Names of the bindings in a wheel, by class; ``""`` is the module.

    Raises:
        CannotReadError: they do not import.
    """
    with tempfile.TemporaryDirectory(prefix="edge-fer-names-") as name:
        folder = Path(name)
        with zipfile.ZipFile(wheel) as archive:
            wanted = [n for n in archive.namelist() if n.endswith((".py", "/tensorrt.so"))]
            archive.extractall(folder, wanted)
        package = next(path.parent.name for path in sorted(folder.glob("*/tensorrt.so")))
        make_stub(folder, major)
        environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}
        return _read(package, python, environment)


def read_rtx() -> dict[str, list[str]]:
    """Names of the installed TensorRT for RTX; nothing is stubbed there."""
    return _read("tensorrt_rtx", sys.executable, dict(os.environ))


def _read(package: str, python: str, environment: dict[str, str]) -> dict[str, list[str]]:
    # -P or a safe path is not in every Python that reads an old wheel; the folder of the script holds no such module.
    done = subprocess.run(
        [python, "-c", READ, package, *CLASSES], capture_output=True, text=True, env=environment, timeout=120
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise CannotReadError(f"{package} does not import: {last[0]}")
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def read_version(version: str) -> dict[str, list[str]]:
    """Names of one of :data:`WHEELS`, or of the installed TensorRT for RTX.

    Raises:
        CannotReadError: not here, and why.
    """
    if version == RTX:
        return read_rtx()
    with tempfile.TemporaryDirectory(prefix="edge-fer-names-") as name:
        return read_wheel(fetch(WHEELS[version], Path(name)), version.partition(".")[0])


def names_of(version: str) -> dict[str, list[str]]:
    """What the committed file says of a version, in the form of :func:`read_version`."""
    table = json.loads(NAMES.read_text(encoding="utf-8"))["names"]
    found = {
        kind: sorted(name for name, where in members.items() if where == "*" or version in where.split(", "))
        for kind, members in table.items()
    }
    return {kind: members for kind, members in found.items() if members}


def write(found: dict[str, dict[str, list[str]]]) -> None:
    """Write the committed file: per class and name the versions that have it, ``*`` for all."""
    table: dict[str, dict[str, str]] = {}
    for kind in sorted({kind for kinds in found.values() for kind in kinds}):
        members = sorted({name for kinds in found.values() for name in kinds.get(kind, [])})
        table[kind] = {}
        for name in members:
            where = [version for version in VERSIONS if name in found[version].get(kind, [])]
            table[kind][name] = "*" if len(where) == len(VERSIONS) else ", ".join(where)
    said = "Names of TensorRT's Python bindings by version (* is all), read by scripts/tensorrt_names.py"
    record = {"what": said, "versions": list(VERSIONS), "names": table}
    NAMES.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", action="store_true")
    arguments.add_argument("--check", metavar="VERSION", choices=VERSIONS)
    arguments.add_argument("--full-wheel", type=Path, help=f"tensorrt-{FULL_WHEEL}-cp310-*.whl")
    arguments.add_argument("--python", default="python3.10", help="interpreter for the full wheel")
    given = arguments.parse_args()
    try:
        if given.check is not None:
            same = read_version(given.check) == names_of(given.check)
            sys.stdout.write(f"{given.check}: {'as committed' if same else 'differs'}\n")
            return 0 if same else 1
        if not given.write:
            arguments.print_help()
            return 2
        found = {version: read_version(version) for version in (*WHEELS, RTX)}
        if given.full_wheel is not None:
            found[FULL_WHEEL] = read_wheel(given.full_wheel, "8", given.python)
        else:
            found[FULL_WHEEL] = names_of(FULL_WHEEL)
        write(found)
        sys.stdout.write(f"{NAMES} written\n")
    except CannotReadError as error:
        sys.stderr.write(f"{error}\n")
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
