"""Weights to begin with: the trunk is taken, the classifier is new, and a foreign or missing file is one sentence."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edge_fer.core.errors import BadInputError, CheckpointError, DeviceError, UsageError
from edge_fer.models import pretrained
from edge_fer.models.convnext import convnext_tiny
from edge_fer.models.hybrid import resnet50_fpn_transformer
from edge_fer.models.pretrained import PUBLISHED, load_trunk, published_file
from edge_fer.models.registry import ARCHITECTURES
from edge_fer.models.resnet import resnet18, resnet34, resnet50


def file_of(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """A state dict as torchvision publishes it: tensors by name, nothing else."""
    torch.save(network.state_dict(), path)
    return network.state_dict()


def test_a_thousand_class_file_gives_the_trunk_and_leaves_the_classifier(tmp_path: Path) -> None:
    state = file_of(resnet18(1000, 3), tmp_path / "a.pth")
    network = resnet18(7, 3)
    head = network.fc.weight.detach().clone()
    loaded = load_trunk(network, "resnet18", tmp_path / "a.pth")
    assert loaded.left_out == ("fc.weight", "fc.bias") == loaded.fresh
    assert loaded.taken == len(state) - 2
    assert not loaded.grey
    torch.testing.assert_close(network.layer3[1].conv2.weight, state["layer3.1.conv2.weight"], rtol=0, atol=0)
    torch.testing.assert_close(network.fc.weight, head, rtol=0, atol=0)


def test_a_grey_network_sees_what_equal_colours_would_have_given(tmp_path: Path) -> None:
    published = resnet18(1000, 3).eval()
    file_of(published, tmp_path / "a.pth")
    network = resnet18(7, 1).eval()
    assert load_trunk(network, "resnet18", tmp_path / "a.pth").grey
    grey = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        expected = published.levels(grey.expand(-1, 3, -1, -1))[3]
        torch.testing.assert_close(network.levels(grey)[3], expected, rtol=1e-4, atol=1e-4)


def test_networks_around_a_backbone_take_the_bare_trunk(tmp_path: Path) -> None:
    state = file_of(resnet50(1000, 3), tmp_path / "a.pth")
    network = resnet50_fpn_transformer(7, 3)
    loaded = load_trunk(network, "resnet50_fpn_transformer", tmp_path / "a.pth")
    assert loaded.taken == len(state) - 2
    assert {name.split(".")[0] for name in loaded.fresh} == {"pyramid", "encoder", "fc", "auxiliary"}
    torch.testing.assert_close(network.state_dict()["backbone.conv1.weight"], state["conv1.weight"], rtol=0, atol=0)


def test_convnext_keeps_the_published_last_norm(tmp_path: Path) -> None:
    state = file_of(convnext_tiny(1000, 3), tmp_path / "a.pth")
    loaded = load_trunk(convnext_tiny(7, 3), "convnext_tiny", tmp_path / "a.pth")
    assert loaded.left_out == ("classifier.2.weight", "classifier.2.bias")
    assert loaded.taken == len(state) - 2


def test_another_network_or_broken_numbers_are_refused(tmp_path: Path) -> None:
    file_of(resnet18(1000, 3), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="does not hold the trunk of a resnet50: it has no layer1"):
        load_trunk(resnet50(7, 3), "resnet50", tmp_path / "a.pth")
    broken = resnet18(7, 3).state_dict() | {"bn1.weight": torch.full((64,), float("nan"))}
    torch.save(broken, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="holds NaN"):
        load_trunk(resnet18(7, 3), "resnet18", tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_trunk(resnet18(7, 3), "resnet18", tmp_path / "missing.pth")


def test_a_deeper_network_of_the_same_names_is_refused(tmp_path: Path) -> None:
    file_of(resnet34(1000, 3), tmp_path / "deeper.pth")
    with pytest.raises(CheckpointError, match="holds another network than resnet18"):
        load_trunk(resnet18(7, 3), "resnet18", tmp_path / "deeper.pth")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the published files come from, and an empty one that they are kept in."""
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("EDGE_FER_FETCHED", str(tmp_path / "kept"))
    monkeypatch.setattr(pretrained, "ADDRESS", (tmp_path / "served").as_uri() + "/")
    return tmp_path / "served"


def test_a_published_file_is_kept_when_its_hash_is_the_one_in_its_name(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"weights"
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(PUBLISHED, "resnet18", name)
    (served / name).write_bytes(content)
    path = published_file("resnet18")
    assert path.read_bytes() == content
    (served / name).unlink()
    assert published_file("resnet18") == path  # from here on without the network
    path.write_bytes(b"edited")
    with pytest.raises(BadInputError, match="does not begin with"):
        published_file("resnet18")


def test_what_is_not_the_published_file_is_not_kept(served: Path) -> None:
    (served / PUBLISHED["resnet18"]).write_bytes(b"something else")
    with pytest.raises(BadInputError, match="not kept"):
        published_file("resnet18")
    assert not [path for path in (served.parent / "kept").rglob("*") if path.is_file()]


def test_offline_is_one_sentence_with_the_place_to_put_the_file(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(DeviceError, match="could not be read: Name or service not known") as caught:
        published_file("resnet50")
    assert "resnet50-0676ba61.pth" in caught.value.fix
    assert "--init FILE" in caught.value.fix
    assert "\n" not in str(caught.value)


def test_a_network_without_published_weights_says_so() -> None:
    with pytest.raises(UsageError, match="no published ImageNet weights for 'cnn_baseline'"):
        published_file("cnn_baseline")
    assert set(PUBLISHED) <= set(ARCHITECTURES)
