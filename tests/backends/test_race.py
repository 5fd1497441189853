"""Engines that are timed against each other: each in a process of its own, and one that fails harms no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_fer.backends.child import Child, ChildFailed
from edge_fer.backends.race import ROUNDS, Entrant, race
from edge_fer.backends.registry import installed_backends
from edge_fer.core.bundle import Bundle


def entrant(shipped: Bundle, backend: str, precision: str) -> Entrant:
    return Entrant(f"{backend} {precision}", shipped.file(shipped.variant(precision, "cpu").file), backend, precision)


def test_every_entrant_gets_a_time_in_every_round_and_a_bad_one_a_sentence(shipped: Bundle, tmp_path: Path) -> None:
    good = [entrant(shipped, status.name, "int8") for status in installed_backends() if "int8" in status.precisions]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    seen: list[str] = []
    timings = race(
        [replace(good[0], onnx=broken), *good],
        shipped.manifest.model,
        progress=lambda text, done, total: seen.append(text),
    )
    assert timings[0].error is not None
    assert str(broken) in timings[0].error
    assert timings[0].median_us is None
    for timing in timings[1:]:
        assert timing.error is None
        assert len(timing.rounds_us) == ROUNDS
        assert min(timing.rounds_us) <= timing.median_us <= max(timing.rounds_us)
    assert seen.count("Timing") == ROUNDS * len(good)


def test_a_child_that_dies_says_its_last_words() -> None:
    with Child("this_module_does_not_exist", 30) as child, pytest.raises(ChildFailed, match=r"crashed .*No module"):
        child.ask({"measure_s": 0.1})


def test_a_child_that_says_nothing_is_not_waited_for_forever() -> None:
    with Child("edge_fer.backends.race", 0.0) as child, pytest.raises(ChildFailed, match="no answer within 0 s"):
        child.ask({"measure_s": 0.1})


def test_a_child_that_was_not_told_what_to_open_says_so() -> None:
    with Child("edge_fer.backends.race", 60) as child, pytest.raises(ChildFailed, match="no engine was opened"):
        child.ask({"measure_s": 0.1})
