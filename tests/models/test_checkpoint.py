"""Reading weights that other people made: what fits is loaded, what does not is refused in one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edge_fer.core.errors import CheckpointError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.models.checkpoint import ContractOverrides, find_checkpoint, load_checkpoint, save_checkpoint
from edge_fer.models.registry import build_model

SPEC = ModelSpec(
    name="small",
    arch="compact",
    preprocess=PreprocessSpec(size_hw=(32, 32), colour="gray", mean=(0.5,), std=(0.25,)),
)
OPTIONS: dict[str, object] = {"widths": [8, 8, 8, 8], "depths": [1, 1, 1]}
RESNET18 = ContractOverrides(arch="resnet18")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    spec = SPEC.model_copy(
        update={"arch": "resnet18", "preprocess": PreprocessSpec(size_hw=(64, 64), colour="gray", mean=(0,), std=(1,))}
    )
    torch.manual_seed(0)
    return build_model(spec).state_dict()


def saved(tmp_path: Path, content: object, name: str = "weights.pt") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


def test_a_saved_checkpoint_comes_back_with_contract_options_and_function(tmp_path):
    torch.manual_seed(0)
    model = build_model(SPEC, OPTIONS).eval()
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, SPEC, OPTIONS, model)
    loaded = load_checkpoint(path)
    assert loaded.spec == SPEC
    assert loaded.options == OPTIONS
    assert loaded.assumptions == ()
    assert loaded.parameters == sum(p.numel() for p in model.parameters())
    x = torch.randn(3, 1, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(loaded.model(x), model(x), atol=2e-2)
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]


def test_a_weight_beyond_half_precision_comes_back_as_it_was(tmp_path):
    model = build_model(SPEC, OPTIONS).eval()
    with torch.no_grad():
        model.fc.weight[0, 0] = 1e6
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, SPEC, OPTIONS, model)
    assert torch.equal(load_checkpoint(path).model.fc.weight, model.fc.weight)


def test_a_stored_contract_cannot_be_contradicted_but_renamed(tmp_path):
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, SPEC, OPTIONS, build_model(SPEC, OPTIONS))
    with pytest.raises(UsageError, match=r"carries its own contract, so --arch, --colour cannot"):
        load_checkpoint(path, ContractOverrides(arch="compact", colour="rgb"))
    assert load_checkpoint(path, ContractOverrides(name="other")).spec.name == "other"
    with pytest.raises(UsageError, match=r"--name cannot be so: name"):
        load_checkpoint(path, ContractOverrides(name="no/slashes"))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
def test_common_wrappers_and_prefixes_are_unwrapped(tmp_path, weights, prefix, wrapper):
    state: dict[str, object] = {prefix + name: tensor for name, tensor in weights.items()}
    content = state if wrapper is None else {wrapper: state, "epoch": 3, "optimizer": {"lr": 0.1}}
    loaded = load_checkpoint(saved(tmp_path, content), RESNET18)
    assert torch.equal(loaded.model.state_dict()["fc.weight"], weights["fc.weight"])
    assert loaded.spec.preprocess.colour == "gray"
    assert loaded.spec.preprocess.size_hw == (224, 224)
    assert loaded.spec.labels == EMOTIONS
    assert loaded.spec.name == "weights"
    assert any("--labels" in sentence for sentence in loaded.assumptions)


def test_plain_safetensors_are_read_like_a_state_dict(tmp_path, weights):
    path = tmp_path / "plain.safetensors"
    save_file(weights, path)
    overrides = ContractOverrides(arch="resnet18", size_hw=(64, 64), mean=(0.4,), std=(0.2,), labels=EMOTIONS)
    loaded = load_checkpoint(path, overrides)
    assert loaded.spec.preprocess.size_hw == (64, 64)
    assert loaded.spec.preprocess.mean == (0.4,)
    assert loaded.assumptions == ()


def test_a_plain_state_dict_needs_its_architecture_named(tmp_path, weights):
    with pytest.raises(UsageError, match=r"plain state dict.*--arch: cnn_baseline, compact, .*resnet18"):
        load_checkpoint(saved(tmp_path, weights))
    with pytest.raises(UsageError, match="Unknown architecture 'resnet19'"):
        load_checkpoint(tmp_path / "weights.pt", ContractOverrides(arch="resnet19"))


class Exploit:
    """Unpickling this creates a file: what a malicious checkpoint would do with worse intent."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_never_runs(tmp_path, weights, zipped):
    marker = tmp_path / "executed"
    path = tmp_path / "evil.pt"
    if zipped:
        torch.save({"state_dict": weights, "extra": Exploit(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Exploit(marker)}))
    with pytest.raises(CheckpointError, match="would run code when loaded, so it was not"):
        load_checkpoint(path, RESNET18)
    assert not marker.exists()


def test_a_pickled_model_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(CheckpointError, match=r"torch\.save\(model\.state_dict"):
        load_checkpoint(saved(tmp_path, build_model(SPEC, OPTIONS)), RESNET18)


@pytest.mark.parametrize("kept", [1, 9, 100, 5000, 100_000])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_truncated_file_is_one_clear_error(tmp_path, weights, kind, kept):
    whole = tmp_path / f"whole.{kind}"
    if kind == "pt":
        torch.save(weights, whole)
    else:
        save_file(weights, whole)
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"cut\.(pt|safetensors)") as caught:
        load_checkpoint(cut, RESNET18)
    assert "\n" not in str(caught.value)


def test_empty_missing_folder_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match="0 bytes"):
        load_checkpoint(tmp_path / "empty.pt", RESNET18)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "absent.pt", RESNET18)
    with pytest.raises(CheckpointError, match="folder"):
        load_checkpoint(tmp_path, RESNET18)
    (tmp_path / "text.pt").write_text("hello, world\n" * 50)
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        load_checkpoint(tmp_path / "text.pt", RESNET18)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_checkpoint(saved(tmp_path, {"epoch": 3}, "no_weights.pt"), RESNET18)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(saved(tmp_path, [1, 2], "list.pt"), RESNET18)


def test_a_wrong_class_count_says_how_many_and_what_to_pass(tmp_path, weights):
    eight = dict(weights) | {"fc.weight": torch.zeros(8, 512), "fc.bias": torch.zeros(8)}
    with pytest.raises(CheckpointError, match=r"has 8 classes, the project's labels are 7: angry, .* --labels"):
        load_checkpoint(saved(tmp_path, eight), RESNET18)
    names = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
    loaded = load_checkpoint(tmp_path / "weights.pt", ContractOverrides(arch="resnet18", labels=names))
    assert loaded.spec.labels == names
    with pytest.raises(CheckpointError, match="has 8 classes, --labels names 2: a, b"):
        load_checkpoint(tmp_path / "weights.pt", ContractOverrides(arch="resnet18", labels=("a", "b")))


def test_weights_of_another_network_are_named(tmp_path, weights):
    with pytest.raises(CheckpointError, match=r"not those of a resnet34: missing layer1\.2\.conv1\.weight"):
        load_checkpoint(saved(tmp_path, weights), ContractOverrides(arch="resnet34"))
    with pytest.raises(CheckpointError, match=r"does not hold a compact: it has no stem\.0\.weight"):
        load_checkpoint(tmp_path / "weights.pt", ContractOverrides(arch="compact"))
    with pytest.raises(CheckpointError, match="unexpected extra"):
        load_checkpoint(saved(tmp_path, dict(weights) | {"extra": torch.zeros(1)}), RESNET18)
    narrow = dict(weights) | {"layer1.0.conv1.weight": torch.zeros(64, 32, 3, 3)}
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight is \(64, 32, 3, 3\) instead of"):
        load_checkpoint(saved(tmp_path, narrow), RESNET18)
    with pytest.raises(CheckpointError, match="1 input channel, which does not fit colour 'rgb'"):
        load_checkpoint(saved(tmp_path, weights), ContractOverrides(arch="resnet18", colour="rgb"))


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        (ContractOverrides(arch="resnet18", size_hw=(0, 0)), "--size"),
        (ContractOverrides(arch="resnet18", std=(0.0,)), "--std"),
        (ContractOverrides(arch="resnet18", labels=("a", "a", "b", "c", "d", "e", "f")), "--labels"),
    ],
)
def test_an_option_that_makes_no_contract_is_the_options_mistake(tmp_path, weights, wrong, option):
    with pytest.raises(UsageError, match=f"{option} cannot be so"):
        load_checkpoint(saved(tmp_path, weights), wrong)


def test_damaged_files_are_told_without_the_librarys_words(tmp_path, weights):
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    whole = saved(tmp_path, weights)
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:1000])
    for name in ("text.pt", "text.safetensors", "cut.pt"):
        with pytest.raises(CheckpointError, match="Copy or download it again") as caught:
            load_checkpoint(tmp_path / name, RESNET18)
        assert not any(word in str(caught.value) for word in ("miniz", "101", "header too small"))


def test_weights_that_are_not_numbers_are_refused(tmp_path, weights):
    broken = dict(weights) | {"bn1.bias": torch.full((64,), float("nan"))}
    with pytest.raises(CheckpointError, match=r"bn1\.bias holds NaN"):
        load_checkpoint(saved(tmp_path, broken), RESNET18)


def test_a_damaged_contract_is_refused(tmp_path):
    tensors = {"stem.0.weight": torch.zeros(8, 1, 3, 3)}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"edge_fer.spec": '{"name": "x"}'})
    with pytest.raises(CheckpointError, match=r"contract of .* is not valid: the key arch is missing"):
        load_checkpoint(path)
    save_file(tensors, path, metadata={"edge_fer.spec": SPEC.model_dump_json(), "edge_fer.options": "[1]"})
    with pytest.raises(CheckpointError, match="damaged options"):
        load_checkpoint(path)
    unknown = SPEC.model_copy(update={"arch": "future"}).model_dump_json()
    save_file(tensors, path, metadata={"edge_fer.spec": unknown})
    with pytest.raises(CheckpointError, match="architecture 'future', which this version"):
        load_checkpoint(path)


def test_a_checkpoint_that_is_neither_file_nor_name_is_refused():
    with pytest.raises(CheckpointError, match="neither a file nor the name of a shipped one"):
        find_checkpoint("nothing-of-the-kind")
