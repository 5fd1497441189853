"""Checkpoints: safetensors files that carry their contract, and plain state dicts that do not. Never a pickle."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edge_fer.core.errors import CheckpointError, UsageError
from edge_fer.core.files import atomic_file, sha256_file
from edge_fer.core.findings import findings
from edge_fer.core.labels import EMOTIONS
from edge_fer.core.spec import AnySpec, Colour, DetectorSpec, ModelSpec
from edge_fer.models.registry import ARCHITECTURES, architecture, build_model, classifiers

SPEC_KEY = "edge_fer.spec"
OPTIONS_KEY = "edge_fer.options"
DEFAULT_CHECKPOINT = "edge-fer-compact"

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Keys under which training scripts store the state dict beside the optimiser's."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and wrapper modules put before every name."""

_WHOLE = "Copy or download it again; edge-fer reads .safetensors and what torch.save(model.state_dict(), PATH) writes."

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class ContractOverrides:
    """What a plain state dict does not say. ``None`` means: read it off the weights, or assume the published recipe."""

    arch: str | None = None
    labels: tuple[str, ...] | None = None
    colour: Colour | None = None
    size_hw: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    name: str | None = None

    def given(self) -> list[str]:
        """The options, as a user types them, that would contradict a contract stored with the weights."""
        options = {
            "--arch": self.arch,
            "--labels": self.labels,
            "--colour": self.colour,
            "--size": self.size_hw,
            "--mean": self.mean,
            "--std": self.std,
        }
        return [option for option, value in options.items() if value is not None]


@dataclass(frozen=True)
class Checkpoint:
    """A network with its trained weights.

    Attributes:
        path: the file it came from.
        sha256: of that file.
        spec: the contract.
        options: keyword arguments of the architecture's factory.
        model: fp32, evaluation mode, on the CPU.
        assumptions: what the file did not say, as sentences for the user; empty when it carries its contract.
    """

    path: Path
    sha256: str
    spec: ModelSpec
    options: dict[str, object]
    model: nn.Module
    assumptions: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Trainable numbers, batch-norm statistics not counted."""
        return sum(p.numel() for p in self.model.parameters())


@dataclass(frozen=True)
class DetectorCheckpoint:
    """A face detector with its trained weights; the attributes are as in :class:`Checkpoint`."""

    path: Path
    sha256: str
    spec: DetectorSpec
    options: dict[str, object]
    model: nn.Module

    @property
    def parameters(self) -> int:
        """Trainable numbers, batch-norm statistics not counted."""
        return sum(p.numel() for p in self.model.parameters())


def save_checkpoint(path: Path, spec: AnySpec, options: dict[str, object], model: nn.Module) -> None:
    """Write weights as fp16 safetensors with the contract in the header; the file is replaced in one step.

    Half precision loses nothing that a trained network needs (11 bits of mantissa against weight noise) and halves
    what the wheel carries. Batch-norm statistics stay fp32, because their range is not bounded, and so does a weight
    with a value beyond fp16's.
    """
    tensors = {name: _stored(tensor.detach()).contiguous().cpu() for name, tensor in model.state_dict().items()}
    metadata = {SPEC_KEY: spec.model_dump_json(), OPTIONS_KEY: json.dumps(options, sort_keys=True)}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _stored(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.ndim < 2:
        return tensor
    half = tensor.half()
    return half if torch.isfinite(half).all() else tensor


def find_checkpoint(name_or_path: str | None = None) -> Path:
    """A checkpoint file: a path, or the name of one that ships with the project (default: the default model's).

    Raises:
        CheckpointError: neither.
    """
    if name_or_path is not None and Path(name_or_path).exists():
        return Path(name_or_path)
    home = Path(__file__).resolve().parents[1] / "checkpoints"
    name = name_or_path or DEFAULT_CHECKPOINT
    if "/" not in name and "\\" not in name and (home / f"{name}.safetensors").is_file():
        return home / f"{name}.safetensors"
    shipped = ", ".join(sorted(path.stem for path in home.glob("*.safetensors"))) or "none"
    raise CheckpointError(
        f"There is no checkpoint {name!r}: neither a file nor the name of a shipped one.", fix=f"Shipped: {shipped}."
    )


def load_checkpoint(path: Path, overrides: ContractOverrides | None = None) -> Checkpoint:
    """Read a checkpoint and build its network.

    Args:
        path: safetensors with or without our header, or a ``.pt``/``.pth`` state dict (or a common wrapper of one).
        overrides: the contract of a plain state dict, or a new ``name``.

    Raises:
        CheckpointError: unreadable, truncated, a pickle with code, or weights that do not fit; one sentence says which.
        UsageError: a plain state dict without ``--arch``, an unknown architecture, or an override of a stored contract.
    """
    wanted = overrides or ContractOverrides()
    if wanted.arch is not None:
        architecture(wanted.arch)
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder, not a checkpoint.", fix="Name the file of weights: .safetensors, .pt or .pth."
        )
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}.")
    if path.stat().st_size == 0:
        raise CheckpointError(
            f"The checkpoint {path} is empty (0 bytes): its download or copy did not finish.", fix=_WHOLE
        )
    state, metadata = _read_weights(path)
    if SPEC_KEY in metadata:
        spec, options = _stored_contract(path, metadata)
        if not isinstance(spec, ModelSpec):
            raise CheckpointError(
                f"{path} is a face detector, not an expression network.",
                fix="Measure its recall with: edge-fer eval --task detection",
            )
        if contradicting := wanted.given():
            raise UsageError(
                f"{path} carries its own contract, so {', '.join(contradicting)} cannot be given as well.",
                fix="Leave these options out; --name may stay.",
            )
        if wanted.name is not None:
            spec = _as_asked(spec.model_dump() | {"name": wanted.name}, wanted)
        assumptions: tuple[str, ...] = ()
    else:
        spec, assumptions = _deduced_contract(path, state, wanted)
        options = {}
    model = build_model(spec, options)
    _load_state(path, model, state, spec)
    return Checkpoint(path, sha256_file(path), spec, options, model.eval().requires_grad_(False), assumptions)


def holds_detector(path: Path) -> bool:
    """Whether a file carries the contract of a face detector; anything else, also an unreadable file, does not."""
    try:
        with safe_open(path, framework="pt") as file:
            contract = dict(file.metadata() or {}).get(SPEC_KEY)
        return contract is not None and json.loads(contract).get("task") == "detection"
    except (SafetensorError, OSError, ValueError):
        return False


def load_detector(path: Path) -> DetectorCheckpoint:
    """Read a face detector's checkpoint and build its network.

    Raises:
        CheckpointError: unreadable, truncated, an expression network, or weights that do not fit.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}.")
    state, metadata = _read_weights(path)
    if SPEC_KEY not in metadata:
        raise CheckpointError(
            f"{path} carries no contract, so it is not known to be a face detector.",
            fix="Train one with: edge-fer train --recipe detector",
        )
    spec, options = _stored_contract(path, metadata)
    if not isinstance(spec, DetectorSpec):
        raise CheckpointError(f"{path} is an expression network, not a face detector.")
    model = build_model(spec, options)
    _load_state(path, model, state, spec)
    return DetectorCheckpoint(path, sha256_file(path), spec, options, model.eval().requires_grad_(False))


def read_state(path: Path) -> StateDict:
    """The tensors of a checkpoint by name, without what wrappers put before every name; nothing is built.

    Raises:
        CheckpointError: there is no such file, or it is unreadable, truncated or a pickle with code.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}.")
    return _strip_prefixes(_read_weights(path)[0])


def _read_weights(path: Path) -> tuple[StateDict, dict[str, str]]:
    with path.open("rb") as file:
        head = file.read(16)
    # safetensors begins with the header's length (8 bytes, little endian) and the header's opening brace.
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_torch(path), {}


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError:
        raise CheckpointError(
            f"{path} is not a safetensors file, or not a whole one.", fix="Copy or download it again."
        ) from None


def _read_torch(path: Path) -> StateDict:
    try:
        with warnings.catch_warnings():
            # torch muses about old pickle protocols and TorchScript here; what matters comes as an error.
            warnings.simplefilter("ignore")
            # weights_only unpickles tensors and plain containers with a reader that knows no other class or function.
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise CheckpointError(
                f"{path} is a pickle that would run code when loaded, so it was not.",
                fix="Save only the weights: torch.save(model.state_dict(), PATH), or use safetensors.",
            ) from None
        raise CheckpointError(f"{path} is not a checkpoint that PyTorch can read.", fix=_WHOLE) from None
    except Exception:
        # torch.load has no common base class: a truncated archive alone gives RuntimeError, EOFError or ValueError, and
        # a text file the KeyError of its first byte. Their messages tell nobody more.
        raise CheckpointError(f"{path} is damaged, cut short or not a PyTorch checkpoint.", fix=_WHOLE) from None
    return _unwrap(path, loaded)


def _unwrap(path: Path, loaded: object) -> StateDict:
    """Find the dictionary of tensors inside what a training script saved."""
    for _ in range(3):
        if not isinstance(loaded, Mapping):
            raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a state dict.")
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(loaded):
            return tensors
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    raise CheckpointError(
        f"{path} holds no state dict: expected tensors by name, or one of the keys {', '.join(_WRAPPERS)}."
    )


def _strip_prefixes(state: StateDict) -> StateDict:
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if state and all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
                changed = True
    return state


def _stored_contract(path: Path, metadata: Mapping[str, str]) -> tuple[AnySpec, dict[str, object]]:
    contract = metadata[SPEC_KEY]
    try:
        is_detector = json.loads(contract).get("task") == "detection"
    except (json.JSONDecodeError, AttributeError):
        raise CheckpointError(f"The contract of {path} is not a JSON object.") from None
    spec: AnySpec = _validated(path, contract, DetectorSpec) if is_detector else _validated(path, contract, ModelSpec)
    try:
        options = json.loads(metadata.get(OPTIONS_KEY, "{}"))
    except json.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        raise CheckpointError(f"{path} has damaged options of its architecture in the header.")
    if spec.arch not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} is of architecture {spec.arch!r}, which this version of edge-fer does not know.",
            fix=f"Known: {', '.join(sorted(ARCHITECTURES))}.",
        )
    return spec, options


_Spec = TypeVar("_Spec", ModelSpec, DetectorSpec)


def _validated(path: Path, contract: str | dict[str, object], kind: type[_Spec]) -> _Spec:
    try:
        return kind.model_validate_json(contract) if isinstance(contract, str) else kind.model_validate(contract)
    except ValidationError as error:
        raise CheckpointError(f"The contract of {path} is not valid: {findings(error, kind, first=True)}.") from None


def _deduced_contract(path: Path, state: StateDict, wanted: ContractOverrides) -> tuple[ModelSpec, tuple[str, ...]]:
    """Contract of a plain state dict: from the options, then the weights' shapes, then the published recipe."""
    if wanted.arch is None:
        raise UsageError(
            f"{path} is a plain state dict, which does not say what network it is.",
            fix=f"Name it with --arch: {', '.join(classifiers())}.",
        )
    arch = architecture(wanted.arch)
    state = _strip_prefixes(state)
    channels = _dimension(path, wanted.arch, state, arch.input_weight, 1)
    classes = _dimension(path, wanted.arch, state, arch.output_weight, 0)
    labels = wanted.labels or EMOTIONS
    if classes != len(labels):
        whose = "--labels names" if wanted.labels else "the project's labels are"
        raise CheckpointError(
            f"{path} has {classes} classes, {whose} {len(labels)}: {', '.join(labels)}.",
            fix="Name its classes in the order of its outputs, and the bundle keeps them: "
            f"edge-fer compile {path} --arch {wanted.arch} --labels A,B,C,…",
        )
    colour: Colour = wanted.colour or ("gray" if channels == 1 else "rgb")
    if channels != (1 if colour == "gray" else 3):
        raise CheckpointError(
            f"{path} takes {channels} input channel{'s' * (channels > 1)}, which does not fit colour {colour!r}.",
            fix=f"--colour {'gray' if channels == 1 else 'rgb'}",
        )
    assumptions = []
    if wanted.labels is None:
        assumptions.append(f"its outputs are, in this order: {', '.join(EMOTIONS)} (change with --labels)")
    if wanted.colour is None and colour == "rgb":
        assumptions.append("its input is RGB")
    size_hw = wanted.size_hw or arch.size_hw
    if wanted.size_hw is None:
        assumptions.append(f"it was trained at {size_hw[0]}x{size_hw[1]} pixels (change with --size)")
    mean, std = wanted.mean or _per_channel(arch.mean, channels), wanted.std or _per_channel(arch.std, channels)
    if wanted.mean is None or wanted.std is None:
        assumptions.append(f"it was normalised with mean {mean} and std {std} (change with --mean and --std)")
    contract: dict[str, object] = {
        "name": wanted.name or _model_name(path),
        "arch": wanted.arch,
        "labels": labels,
        "preprocess": {"size_hw": size_hw, "colour": colour, "mean": mean, "std": std},
    }
    return _as_asked(contract, wanted), tuple(assumptions)


def _as_asked(contract: dict[str, object], wanted: ContractOverrides) -> ModelSpec:
    """The contract; what is wrong with it is wrong with the options, because all else was measured or published."""
    try:
        return ModelSpec.model_validate(contract)
    except ValidationError as error:
        typed = [*wanted.given(), *(["--name"] if wanted.name is not None else [])]
        raise UsageError(
            f"{', '.join(typed) or 'These weights'} cannot be so: {findings(error, ModelSpec, first=True)}."
        ) from None


def _dimension(path: Path, arch: str, state: StateDict, key: str, axis: int) -> int:
    tensor = state.get(key)
    if tensor is None or tensor.ndim <= axis:
        raise CheckpointError(
            f"{path} does not hold a {arch}: it has no {key}; its first weights are {', '.join(list(state)[:3])}.",
            fix="If it is another network, say which: --arch NAME; a wrong name lists them all.",
        )
    return int(tensor.shape[axis])


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if channels == 3 else (round(sum(values) / len(values), 6),)


def _model_name(path: Path) -> str:
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem).strip("._-")
    return cleaned[:80] or "model"


def _load_state(path: Path, model: nn.Module, state: StateDict, spec: AnySpec) -> None:
    """Copy weights into the network; every name and shape must fit, and every number must be finite."""
    state = _strip_prefixes(state)
    expected = model.state_dict()
    # A counter that inference never reads; old checkpoints lack it.
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = [name for name in expected if name not in state and name not in counters]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        found = [_listed(missing, "missing")] * bool(missing) + [_listed(unexpected, "unexpected")] * bool(unexpected)
        raise CheckpointError(f"The weights in {path} are not those of a {spec.arch}: {'; '.join(found)}.")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"The weights in {path} do not fit {spec.arch} with output {spec.output_shape}: {name} is "
                f"{tuple(tensor.shape)} instead of {tuple(expected[name].shape)}."
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"The weights in {path} are broken: {name} holds NaN or infinite values.")
    model.load_state_dict(dict(state), strict=False)


def _listed(names: list[str], what: str) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{what} {shown}"
