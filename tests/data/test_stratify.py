"""The division into parts: every class of every source keeps its share, groups stay whole, nothing is left to luck."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.data.stratify import Member, stratified_split

SHARES = (0.8, 0.1, 0.1)


@given(
    counts=st.dictionaries(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["happy", "sad", "fear"])), st.integers(1, 60), min_size=1
    ),
    seed=st.integers(0, 1000),
)
def test_every_class_of_every_source_has_its_share_to_less_than_one_sample(
    counts: dict[tuple[str, str], int], seed: int
) -> None:
    members = [
        Member(f"{source}/{label}/{n}", label, source) for (source, label), k in counts.items() for n in range(k)
    ]
    parts = stratified_split(members, SHARES, seed)
    placed = Counter((m.source, m.label, int(p)) for m, p in zip(members, parts, strict=True))
    for (source, label), k in counts.items():
        for part, share in enumerate(SHARES):
            assert abs(placed[source, label, part] - share * k) < 1
    whole = np.bincount(parts, minlength=3)
    assert abs(whole - np.array(SHARES) * len(members)).max() < 2 + len(counts) / 3


def test_rounding_errors_do_not_add_up() -> None:
    """A hundred classes of five pictures: 4 go to training, the fifth in turn to validation and test."""
    members = [Member(f"{c}/{n}", f"class{c:03d}", "s") for c in range(100) for n in range(5)]
    parts = stratified_split(members, SHARES, 1)
    assert np.bincount(parts).tolist() == [400, 50, 50]


def test_the_order_of_the_files_plays_no_part_and_the_seed_does() -> None:
    members = [Member(f"{n}", "happy" if n % 3 else "sad", "s") for n in range(200)]
    first = dict(zip((m.id for m in members), stratified_split(members, SHARES, 7).tolist(), strict=True))
    turned = members[::-1]
    assert dict(zip((m.id for m in turned), stratified_split(turned, SHARES, 7).tolist(), strict=True)) == first
    assert stratified_split(members, SHARES, 8).tolist() != stratified_split(members, SHARES, 7).tolist()


@given(sizes=st.lists(st.integers(1, 12), min_size=10, max_size=60), seed=st.integers(0, 100))
def test_a_group_is_never_divided(sizes: list[int], seed: int) -> None:
    members = [
        Member(f"{g}/{n}", "happy" if n % 2 else "sad", "s", f"person{g}")
        for g, k in enumerate(sizes)
        for n in range(k)
    ]
    parts = stratified_split(members, SHARES, seed)
    of_group: dict[str, set[int]] = {}
    for member, part in zip(members, parts, strict=True):
        of_group.setdefault(str(member.group), set()).add(int(part))
    assert all(len(found) == 1 for found in of_group.values())


def test_seventy_people_with_the_same_pictures_are_divided_as_asked() -> None:
    """KDEF: 70 people, 7 expressions, 3 poses, 2 sessions."""
    labels = ("afraid", "angry", "disgusted", "happy", "neutral", "sad", "surprised")
    members = [
        Member(f"{p}/{label}/{n}", label, "kdef", f"person{p}") for p in range(70) for label in labels for n in range(6)
    ]
    parts = stratified_split(members, SHARES, 2013)
    people = Counter(int(parts[i]) for i in range(0, len(members), 42))
    assert people == {0: 56, 1: 7, 2: 7}


def test_every_part_has_its_share_of_the_groups_too() -> None:
    """Copies of pictures: a test part made of them would be another test."""
    pairs = [Member(f"p{g}/{n}", "happy", "s", f"pair{g}") for g in range(300) for n in range(2)]
    singles = [Member(f"s{n}", "happy", "s") for n in range(2400)]
    parts = stratified_split([*pairs, *singles], SHARES, 4)
    assert np.bincount(parts).tolist() == [2400, 300, 300]
    assert np.bincount(parts[: len(pairs)]).tolist() == [480, 60, 60]


def test_single_samples_level_out_what_groups_upset() -> None:
    grouped = [Member(f"g{n}", "happy", "s", "one person") for n in range(30)]
    single = [Member(f"s{n}", "happy", "s") for n in range(70)]
    parts = stratified_split([*grouped, *single], SHARES, 3)
    assert np.bincount(parts).tolist() == [80, 10, 10]


@pytest.mark.parametrize("shares", [(), (0.5, 0.0), (1.0, -0.1)])
def test_shares_must_be_positive(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="positive"):
        stratified_split([Member("a", "happy", "s")], shares, 0)
