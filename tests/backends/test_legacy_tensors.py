"""Weights in torch's old file format are read without torch, and a file that asks for more is refused."""

from __future__ import annotations

import collections
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_fer.backends.legacy_tensors import read_tensors


def saved(value: object, *, modern: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=modern)
    return file.getvalue()


def test_a_state_dict_is_read_as_torch_reads_it() -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.PReLU(5), torch.nn.Linear(7, 2)).state_dict()
    # The published weights lie as another framework wrote them, column by column.
    layers["turned"] = torch.arange(24.0).reshape(2, 3, 4).permute(2, 1, 0)
    layers["part"] = torch.arange(24.0).reshape(4, 6)[1:, 2:5]
    layers["number"] = torch.tensor(2.5)
    found = read_tensors(saved(layers))
    assert list(found) == list(layers)
    for name, tensor in layers.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].flags.writeable, "a copy, not a view of the file"


class Wish:
    """Unpickled, it calls what it is told to."""

    def __init__(self, call: object, *arguments: object) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def test_nothing_that_a_file_asks_for_is_run(tmp_path: Path) -> None:
    victim = tmp_path / "made"
    for wish in (Wish(os.mkdir, str(victim)), Wish(eval, f"__import__('os').mkdir({str(victim)!r})")):
        with pytest.raises(ValueError, match=r"it asks for|something else than tensors"):
            read_tensors(saved(collections.OrderedDict(weight=wish)))
    assert not victim.exists()
    pickle.loads(pickle.dumps(Wish(os.mkdir, str(victim))))
    assert victim.exists(), "pickle itself would have"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"weight": torch.zeros(3, dtype=torch.float64)}, "torch DoubleStorage, not of float32"),
        ({"weight": "text"}, "something else than tensors"),
        ([1, 2, 3], "damaged"),
    ],
)
def test_what_is_no_dictionary_of_float32_tensors_is_refused(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_tensors(saved(value))


def test_other_and_broken_files_are_refused() -> None:
    whole = saved({"weight": torch.arange(12.0).reshape(3, 4)})
    modern = saved({"weight": torch.zeros(2)}, modern=True)
    plain = pickle.dumps({"weight": 1})
    broken = [whole[:length] for length in range(len(whole))]
    for data in (b"junk", modern, plain, whole.replace(b"weight", b"weig\xff\xfe"), *broken):
        with pytest.raises(ValueError, match=r"."):
            read_tensors(data)


def test_a_tensor_that_reaches_over_its_storage_is_refused() -> None:
    """Offset, length and shape come from the file, and memory behind the storage must not."""
    base = torch.arange(10.0)
    view = saved({"weight": base[4:]})
    np.testing.assert_array_equal(read_tensors(view)["weight"], np.arange(4, 10))
    # The offset 4 (BININT1) becomes 5.
    place = view.index(b"Q", view.index(b"cpu")) + 1
    assert view[place : place + 2] == b"K\x04"
    with pytest.raises(ValueError, match="reaches over its storage"):
        read_tensors(view[: place + 1] + b"\x05" + view[place + 2 :])
