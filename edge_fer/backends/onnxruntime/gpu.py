"""ONNX Runtime on an NVIDIA GPU: its CUDA provider, with or without a CUDA graph, and its TensorRT provider.

The GPU package takes a provider's name, fails to load a library of CUDA, and computes on the CPU without an error. So
the providers that a session was granted are compared with those that were asked for, and no node may fall to the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from edge_fer.backends.gpu import check_precision, current_gpu, identity, precisions_of, workspace_bytes
from edge_fer.backends.onnxruntime.build import PACKAGES, import_library
from edge_fer.backends.onnxruntime.gpu_engine import (
    DOCTOR,
    ENGINE_FILE,
    GpuDeviceEngine,
    GpuEngine,
    GpuGraphEngine,
    explain_gpu,
)
from edge_fer.core.engine import HEIGHT, INPUT, WIDTH
from edge_fer.core.errors import DeviceError, ProviderError, UsageError
from edge_fer.core.manifest import EngineManifest

PACKAGE = "onnxruntime-gpu"
CUDA_PROVIDER, TENSORRT_PROVIDER = "CUDAExecutionProvider", "TensorrtExecutionProvider"
FATAL_ONLY = 4
"""What ONNX Runtime would write about a provider that does not load; the error says it in one sentence instead."""
_SWAP = f"pip uninstall -y onnxruntime && pip install {PACKAGE}"


@dataclass(frozen=True)
class GpuProvider:
    """One provider as a backend: it has the functions of a backend's ``build`` and ``engine`` modules.

    Attributes:
        name: of the backend.
        provider: of the execution provider, which must be the first that a session is granted.
        graph: replay a captured CUDA graph instead of launching kernel by kernel.
    """

    name: str
    provider: str
    graph: bool = False

    def version(self) -> str | None:
        """Version of the GPU package, or ``None``; asks the metadata, so nothing is loaded."""
        try:
            return metadata.version(PACKAGE)
        except metadata.PackageNotFoundError:
            return None

    def missing(self) -> DeviceError:
        """What to say where the GPU package is not installed."""
        for package in PACKAGES:
            try:
                found = f"{package} {metadata.version(package)}"
            except metadata.PackageNotFoundError:
                continue
            return ProviderError(f"The installed {found} has no {self.provider}.", fix=f"Install the GPU one: {_SWAP}")
        return DeviceError(f"{PACKAGE} is not installed; it is needed for {self.name}.", fix=f"pip install {PACKAGE}")

    def import_library(self) -> Any:
        """``onnxruntime`` with this provider in it.

        Raises:
            DeviceError: it is not installed, or another one's files are there.
        """
        ort = import_library()
        if self.provider not in ort.get_available_providers():
            raise self.missing()
        if hasattr(ort, "preload_dlls"):
            # CUDA and cuDNN from pip lie where no loader looks. What it cannot find it prints, and we find out later.
            with contextlib.redirect_stdout(io.StringIO()):
                ort.preload_dlls()
        if self.provider == TENSORRT_PROVIDER:
            # Nor TensorRT's, which `preload_dlls` does not know. Its own module loads them from beside itself.
            with contextlib.suppress(Exception):
                import_module("tensorrt")
        ort.set_default_logger_severity(FATAL_ONLY)
        return ort

    def device(self) -> str:
        return identity(current_gpu())

    def precisions(self) -> tuple[str, ...]:
        """What is worth running on the GPU here; nothing where there is none."""
        try:
            gpu = current_gpu()
            self.import_library()
        except DeviceError:
            return ()
        return tuple(precision for precision in precisions_of(gpu.sm) if precision in self._offered)

    @property
    def _offered(self) -> tuple[str, ...]:
        # The CUDA provider has no int8 convolutions: it would compute Q/DQ in fp32 with two more steps around each.
        return ("fp32", "fp16", "int8") if self.provider == TENSORRT_PROVIDER else ("fp32", "fp16")

    def onnx_form(self, precision: str) -> str:
        """Which form of the bundle a precision is built from; the TensorRT provider has a switch for fp16."""
        if precision not in self._offered:
            raise UsageError(
                f"ONNX Runtime's {self.provider} has no {precision} kernels.",
                fix=f"Use --precision {' or '.join(self._offered)}, or --backend tensorrt for int8.",
            )
        return "fp32" if precision == "fp16" and self.provider == TENSORRT_PROVIDER else precision

    def build(
        self,
        onnx: Path,
        out: Path,
        *,
        precision: str,
        max_batch: int,
        threads: int,
        input_shape: tuple[int, int, int],
        on_step: Callable[[str], None] | None = None,
    ) -> list[str]:
        """Copy the network; the provider makes its own engine of it when it is loaded, and TensorRT's is kept here."""
        self.onnx_form(precision)
        check_precision(current_gpu(), precision)
        shutil.copyfile(onnx, out / ENGINE_FILE)
        return [ENGINE_FILE]

    def load(self, folder: Path, manifest: EngineManifest, *, threads: int, slots: int) -> GpuEngine:
        """Open the network in ``folder``, whose files were compared with the manifest before.

        Raises:
            EdgeFerError: no GPU, no library, not enough memory, or what :meth:`open_session` raises.
        """
        from edge_fer.cuda.open import open_device

        device = open_device()
        try:
            return (GpuGraphEngine if self.graph else GpuDeviceEngine)(self, folder, manifest, device, slots=slots)
        except BaseException:
            device.close()
            raise

    def open_session(self, onnx: Path, manifest: EngineManifest, cache: Path, stream: int) -> Any:
        """A session that computes on the provider, wholly.

        Args:
            cache: folder that the TensorRT provider keeps its engine in.
            stream: handle of the CUDA stream that it computes on; it must outlive the session.

        Raises:
            ProviderError: the session was granted other providers than it was asked for.
            DeviceError: it does not load.
        """
        ort = self.import_library()
        options = ort.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        _, height, width = manifest.model.input_shape
        options.add_free_dimension_override_by_name(HEIGHT, height)
        options.add_free_dimension_override_by_name(WIDTH, width)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if self.provider == TENSORRT_PROVIDER:
            # ONNX Runtime's own fusions would take the Q/DQ nodes apart that TensorRT looks for.
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        on_stream = {"device_id": "0", "user_compute_stream": str(stream)}
        providers = [(CUDA_PROVIDER, on_stream | self._cuda_settings())]
        if self.provider == TENSORRT_PROVIDER:
            providers.insert(0, (TENSORRT_PROVIDER, on_stream | _tensorrt_settings(manifest, cache)))
        wanted = [name for name, _ in providers]
        try:
            # Without `enable_fallback` a provider that throws is replaced by the next one, and that is printed.
            session = ort.InferenceSession(str(onnx), options, providers=providers, enable_fallback=0)
        except Exception as error:
            if (missing := _missing_library(ort, self.provider)) is None:
                raise explain_gpu(error, f"ONNX Runtime's {self.provider} cannot load {onnx.name}") from None
            raise ProviderError(f"ONNX Runtime's {self.provider} does not load here: {missing}.", fix=DOCTOR) from None
        granted = session.get_providers()
        if granted[: len(wanted)] != wanted:
            why = _missing_library(ort, self.provider) or "it gives no reason"
            raise ProviderError(
                f"Asked ONNX Runtime for {self.provider}, and it loaded {', '.join(granted)}: {why}.", fix=DOCTOR
            )
        return session

    def _cuda_settings(self) -> dict[str, str]:
        return {
            "use_tf32": "0",
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "enable_cuda_graph": "1" if self.graph else "0",
        }


def _missing_library(ort: Any, provider: str) -> str | None:
    """What the dynamic loader says about a provider's own library, or ``None`` when it has nothing to complain of."""
    stem = "onnxruntime_providers_" + ("tensorrt" if provider == TENSORRT_PROVIDER else "cuda")
    name = f"{stem}.dll" if sys.platform == "win32" else f"lib{stem}.so"
    path = Path(ort.__file__).parent / "capi" / name
    if not path.is_file():
        return f"it has no {name}"
    try:
        # It needs symbols of its host, which the loader only finds in what the session loaded as well.
        ctypes.CDLL(str(path.with_name(name.replace(stem, "onnxruntime_providers_shared"))), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error).splitlines()[0].rstrip(".")
    return None


def _tensorrt_settings(manifest: EngineManifest, cache: Path) -> dict[str, str]:
    """Options of the TensorRT provider: the profile of :mod:`edge_fer.backends.tensorrt.plan`, and its caches.

    ONNX Runtime's Python module reads these itself, and of a switch it takes the words True and False only; the CUDA
    provider's also take 1 and 0.
    """
    row = "x".join(str(side) for side in manifest.model.input_shape)
    return {
        "trt_max_workspace_size": str(workspace_bytes(current_gpu())),
        "trt_fp16_enable": str(manifest.precision == "fp16"),
        "trt_int8_enable": str(manifest.precision == "int8"),
        "trt_profile_min_shapes": f"{INPUT}:1x{row}",
        "trt_profile_opt_shapes": f"{INPUT}:1x{row}",
        "trt_profile_max_shapes": f"{INPUT}:{manifest.max_batch}x{row}",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
    }


CUDA = GpuProvider("onnxruntime-cuda", CUDA_PROVIDER)
CUDA_GRAPH = GpuProvider("onnxruntime-cuda-graph", CUDA_PROVIDER, graph=True)
TENSORRT = GpuProvider("onnxruntime-tensorrt", TENSORRT_PROVIDER)
