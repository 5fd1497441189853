"""Compile edge_fer/cuda/kernels/*.cu to the PTX that ships with the project: ``make ptx``.

NVRTC of CUDA 12.0 or 11.8 compiles for compute_61, so that the drivers of Pascal laptops accept what it writes and
newer drivers compile it for newer GPUs. A later NVRTC writes PTX that older drivers refuse, so it is refused here.

Needs: pip install 'cuda-bindings>=12.9,<13' 'nvidia-cuda-nvrtc-cu12==12.0.*'
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cuda.bindings import nvrtc

from edge_fer.core.files import atomic_file

KERNELS = Path(__file__).resolve().parents[1] / "edge_fer" / "cuda" / "kernels"
NEWEST = (12, 0)
OPTIONS = (b"--gpu-architecture=compute_61", b"--std=c++14", b"--fmad=false")
"""Without fused multiply-adds: the results are then those of the host, bit by bit."""


def checked(call: str, *arguments: Any) -> Any:
    status, *results = getattr(nvrtc, call)(*arguments)
    if int(status):
        raise RuntimeError(f"{call}: {nvrtc.nvrtcGetErrorString(status)[1].decode()}")
    return results[0] if len(results) == 1 else tuple(results)


def text_of(call: str, program: Any) -> str:
    """What NVRTC writes into a buffer of ours, up to its closing zero byte.

    The buffer is a ``bytes`` object because the binding takes no other, and it is written to. So it must be one that
    nothing else can hold: Python keeps a single object for each one-byte string, and an empty log is one byte.
    """
    buffer = bytes(max(checked(f"{call}Size", program), 2))
    checked(call, program, buffer)
    return buffer.rstrip(b"\0").decode()


def compile_to_ptx(source: Path) -> bytes:
    """PTX text of one file, without the comment block that names the compiler's build.

    Raises:
        RuntimeError: NVRTC is too new, or the source does not compile (with the compiler's messages).
    """
    version = checked("nvrtcVersion")
    if version > NEWEST:
        raise RuntimeError(f"NVRTC {version[0]}.{version[1]} is newer than {NEWEST[0]}.{NEWEST[1]}")
    program = checked("nvrtcCreateProgram", source.read_bytes(), source.name.encode(), 0, None, None)
    try:
        status = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), list(OPTIONS))[0]
        log = text_of("nvrtcGetProgramLog", program)
        if int(status) or log.strip():
            raise RuntimeError(f"{source.name} does not compile cleanly:\n{log}")
        ptx = text_of("nvrtcGetPTX", program)
    finally:
        checked("nvrtcDestroyProgram", program)
    return "\n".join(line for line in ptx.splitlines() if not line.startswith("//")).strip().encode() + b"\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a committed file is stale")
    check: bool = parser.parse_args().check
    for source in sorted(KERNELS.glob("*.cu")):
        made, path = compile_to_ptx(source), source.with_suffix(".ptx")
        if check:
            if not path.is_file() or path.read_bytes() != made:
                sys.exit(f"{path.name} is not what {source.name} gives; run: make ptx")
            continue
        with atomic_file(path) as temporary:
            temporary.write_bytes(made)


if __name__ == "__main__":
    main()
