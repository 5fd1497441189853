"""The kernels that TensorRT for RTX compiles when an engine is first used, kept for the next process.

It does not choose kernels while it builds, as TensorRT does, but compiles them for the GPU at hand when an execution
context is made: seconds at every start, unless its runtime cache remembers them. NVIDIA's other TensorRT has no such
cache and needs none.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from edge_fer.core.errors import DeviceError
from edge_fer.core.files import atomic_file
from edge_fer.core.manifest import EngineManifest


class KernelCache:
    """A runtime cache in a file, and the configuration that gives it to execution contexts.

    TensorRT checks by itself whether what is stored belongs to this version, GPU, system and driver; what does not is
    compiled anew and replaced.

    Args:
        engine: the deserialised engine; it must outlive this.
    """

    def __init__(self, trt: Any, engine: Any, path: Path) -> None:
        self._path, self._stored = path, b""
        with contextlib.suppress(FileNotFoundError):
            self._stored = path.read_bytes()
        self.runtime_config = runtime_config = engine.create_runtime_config()
        runtime_config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # A context keeps its shape, and its work is captured: what is captured must be the kernels for that shape, not
        # the ones that stand in while others are still compiled.
        runtime_config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._runtime_cache = runtime_cache = runtime_config.create_runtime_cache()
        if self._stored and not runtime_cache.deserialize(self._stored):
            self._stored = b""
        runtime_config.set_runtime_cache(runtime_cache)

    def keep(self) -> None:
        """Write what has been compiled since. Where that is not possible the next start takes its seconds again, and
        nothing else is lost."""
        runtime_cache = self._runtime_cache
        serialized = runtime_cache.serialize()
        compiled = b"" if serialized is None else bytes(memoryview(serialized))
        if compiled in (b"", self._stored):
            return
        with contextlib.suppress(DeviceError, OSError), atomic_file(self._path) as temporary:
            temporary.write_bytes(compiled)


def open_kernel_cache(trt: Any, engine: Any, manifest: EngineManifest, plan_file: str) -> KernelCache | None:
    """The cache of this plan on this machine; ``None`` where TensorRT compiles nothing when it loads an engine."""
    if not hasattr(trt, "IRuntimeCache"):
        return None
    from edge_fer.backends.registry import cache_folder

    (plan,) = (record.sha256 for record in manifest.files if record.name == plan_file)
    digest = hashlib.sha256(f"{plan}\n{manifest.backend_version}\n{manifest.device}".encode()).hexdigest()[:16]
    return KernelCache(trt, engine, cache_folder() / "tensorrt-kernels" / f"{digest}.cache")
