"""What ``edge-fer compile`` is asked for, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_fer.backends.registry import BACKENDS, installed_version, require
from edge_fer.compile.calibrate import check_method
from edge_fer.core.errors import DeviceError, UsageError
from edge_fer.core.files import check_out_folder, check_writable
from edge_fer.core.manifest import MANIFEST
from edge_fer.core.threads import check_threads
from edge_fer.models.checkpoint import ContractOverrides

PRECISIONS = ("fp32", "fp16", "int8")
DEFAULT_MAX_DROP = 0.5


@dataclass(frozen=True)
class CompileRequest:
    """One compilation.

    Attributes:
        out: the bundle's folder; default ``engines/<name>`` below the current folder.
        precision: ``None`` means int8 where its ranges can be known and pass the gate, else fp32.
        backend: ``auto``, or the one to verify and build for.
        calibration: a folder of faces or a recipe; ``None`` reuses the shipped ranges when they are of this network.
        data: a labelled dataset to verify accuracy on, with ``split``.
        max_drop: percentage points of top-1 that int8 may lose on ``data``.
        gate: whether to refuse int8 that loses more.
        min_speedup: how many times faster than fp32 int8 must be here to be chosen.
        bias_correction: mend the shift that rounding gives the mean of every layer, in the ``cpu`` form.
        trt_dialect: also write the int8 form for TensorRT.
        build: also build and time the engines of this machine, so that the first run finds them.
        contract: what a plain state dict does not say.
    """

    checkpoint: Path
    out: Path | None = None
    precision: str | None = None
    backend: str = "auto"
    calibration: Path | None = None
    method: str | None = None
    data: Path | None = None
    split: str | None = None
    max_drop: float = DEFAULT_MAX_DROP
    gate: bool = True
    min_speedup: float | None = None
    bias_correction: bool = False
    trt_dialect: bool = False
    build: bool = True
    threads: int = 1
    """Of the engines that are timed and built; measuring ranges and accuracy takes all that this process may use."""
    contract: ContractOverrides = field(default_factory=ContractOverrides)

    def check(self) -> None:
        """Find contradictions that need no file to be seen.

        Raises:
            UsageError: names the options.
            DeviceError: the backend that was asked for is not installed, or its engine cannot be built here.
        """
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UsageError(f"Unknown precision {self.precision!r}.", fix=f"Known: {', '.join(PRECISIONS)}.")
        if self.backend not in ("auto", *BACKENDS):
            raise UsageError(f"Unknown backend {self.backend!r}.", fix=f"Known: auto, {', '.join(BACKENDS)}.")
        if self.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {self.threads}.")
        check_threads(self.threads)
        if not self.max_drop >= 0:
            raise UsageError(f"--max-drop must not be negative, not {self.max_drop}.")
        if self.min_speedup is not None and not self.min_speedup > 0:
            raise UsageError(f"--min-speedup must be positive, not {self.min_speedup}.")
        if self.precision in ("fp32", "fp16"):
            for option, value in (("--calibration", self.calibration), ("--calibration-method", self.method)):
                if value is not None:
                    raise UsageError(
                        f"{option} is for int8; --precision {self.precision} needs no ranges.", fix="--precision int8"
                    )
            if self.trt_dialect:
                raise UsageError(
                    f"--trt-dialect writes an int8 form; --precision {self.precision} has none.", fix="--precision int8"
                )
        if self.bias_correction and self.calibration is None:
            raise UsageError("--bias-correction needs faces to measure on.", fix="Give them with --calibration.")
        if self.method is not None:
            check_method(self.method)
            if self.calibration is None:
                raise UsageError("--calibration-method needs faces to measure on.", fix="Give them with --calibration.")
        if self.min_speedup is not None and not self.build:
            raise UsageError(
                "--min-speedup needs engines to time, and --no-build makes none.", fix="Leave one of the two out."
            )
        if self.split is not None and self.data is None:
            raise UsageError(
                "--split names a part of --data, which is not given.", fix=f"--data DATASET --split {self.split}"
            )
        if self.backend == "tensorrt":
            self._check_gpu()
        elif self.backend != "auto":
            installed_version(self.backend)

    def _check_gpu(self) -> None:
        """A bundle for TensorRT needs neither GPU nor library; its engine does."""
        if not self.build:
            return
        try:
            require("tensorrt")
        except DeviceError as error:
            raise DeviceError(
                error.message,
                fix="To write the bundle here and build its engine where the GPU is: --backend tensorrt --no-build",
            ) from None

    @property
    def wants_trt(self) -> bool:
        return self.trt_dialect or self.backend == "tensorrt"

    @property
    def host_backend(self) -> str:
        """Which backends of this machine to verify: TensorRT engines are built where the GPU is."""
        return "auto" if self.backend == "tensorrt" else self.backend


def check_out(out: Path) -> None:
    """A bundle replaces its folder as a whole, so that must not hold anything else.

    Raises:
        UsageError: ``out`` is a file, a folder that is no bundle, or the current one.
    """
    check_out_folder(out)
    check_writable(out / MANIFEST)
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise UsageError(
            f"{out} holds other things, and a bundle replaces its folder.", fix="Name a new folder with --out."
        )
