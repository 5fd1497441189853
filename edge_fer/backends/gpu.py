"""The GPU that engines are built for: who it is, and which precisions are worth building on it."""

from __future__ import annotations

from edge_fer.core.errors import ProviderError
from edge_fer.cuda.device import DeviceInfo

ON_GPU_BACKENDS = frozenset({"tensorrt", "onnxruntime-cuda", "onnxruntime-cuda-graph", "onnxruntime-tensorrt"})
"""Names of our backends that compute on an NVIDIA GPU."""

WORKSPACE_LIMIT = 1 << 30
WORKSPACE_SHARE = 8
"""An eighth of the card: 256 MB of an MX250's 2 GB, which a desktop, the CUDA context, weights and frames share."""

_SLOW_FP16 = frozenset({(5, 0), (5, 2), (6, 1)})
_NO_DP4A = frozenset({(5, 0), (5, 2), (5, 3), (6, 0), (6, 2)})


def current_gpu() -> DeviceInfo:
    """The first CUDA device that this process may see (``CUDA_VISIBLE_DEVICES`` chooses).

    Raises:
        DeviceError: its subclasses tell a missing driver, device and package apart.
    """
    from edge_fer.cuda.open import describe_device

    return describe_device()


def sm_name(info: DeviceInfo) -> str:
    return f"sm_{info.sm[0]}{info.sm[1]}"


def identity(info: DeviceInfo) -> str:
    """Everything about a GPU that a plan depends on. Kernels are chosen by timing them on this very chip, so two cards
    of the same architecture are two devices; the driver compiles some of them."""
    major, minor = divmod(info.driver_version, 1000)
    size = f"{round(info.total_bytes / 2**20)} MiB"
    return f"{info.name} [{sm_name(info)} {size}, driver for CUDA {major}.{minor // 10}]"


def workspace_bytes(info: DeviceInfo) -> int:
    """Scratch memory that a kernel may ask for."""
    return min(WORKSPACE_LIMIT, info.total_bytes // WORKSPACE_SHARE)


def precisions_of(sm: tuple[int, int]) -> tuple[str, ...]:
    """fp32 and what is faster there (CUDA C++ programming guide, throughput of native arithmetic instructions)."""
    fp16 = () if sm in _SLOW_FP16 else ("fp16",)
    int8 = () if sm in _NO_DP4A or sm < (5, 0) else ("int8",)
    return ("fp32", *fp16, *int8)


def check_precision(info: DeviceInfo, precision: str) -> None:
    """Refuse what the GPU would compute slower than fp32, or not at all.

    Raises:
        ProviderError: with the precision that is the answer.
    """
    offered = precisions_of(info.sm)
    if precision in offered:
        return
    card = f"{info.name} ({sm_name(info)})"
    if precision == "fp16":
        reason = "computes fp16 at 1/64 of its fp32 rate" if info.sm == (6, 1) else "has no fast fp16 arithmetic"
        raise ProviderError(
            f"The {card} {reason}, so an fp16 engine would be slower than an fp32 one.",
            fix=f"Use --precision {offered[-1]}.",
        )
    raise ProviderError(
        f"The {card} has no int8 dot products (dp4a), so nothing would be gained by int8.",
        fix=f"Use --precision {offered[-1]}.",
    )
