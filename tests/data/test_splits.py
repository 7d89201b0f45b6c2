from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mulfree.data.splits import balanced, few_shot, hold_out, stratified
from mulfree.errors import ConfigError

label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def test_fixed_order_is_splitmix64() -> None:
    def splitmix64(state: int) -> int:
        mask = 2**64 - 1
        state = state * 0x9E3779B97F4A7C15 & mask
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
        return state ^ state >> 31

    def signed(value: int) -> int:
        return value - 2**64 if value >= 2**63 else value

    order = sorted(range(200), key=lambda number: signed(splitmix64(number + 1)))
    # Of one class, the first 50 in the fixed order are held out.
    _, held = hold_out(torch.zeros(200, dtype=torch.int64), 0.25)
    assert held.tolist() == sorted(order[:50])


@given(label_lists, st.floats(0, 1))
def test_hold_out_divides_every_class(names: list[int], fraction: float) -> None:
    labels = torch.tensor(names)
    kept, held = hold_out(labels, fraction)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(names)))
    wanted = (labels.bincount() * fraction).round()
    assert labels[held].bincount(minlength=len(wanted)).tolist() == wanted.tolist()


@given(label_lists, st.data())
def test_balanced_takes_turns(names: list[int], draw: st.DataObject) -> None:
    labels = torch.tensor(names)
    count = draw.draw(st.integers(1, len(names)))
    rows = balanced(labels, count)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == count
    chosen = labels[rows].bincount(minlength=5).tolist()
    there = labels.bincount(minlength=5).tolist()
    for have, total in zip(chosen, there, strict=True):
        # A class has fewer than the largest share only by one, or because it has no more.
        assert have == total or have >= max(chosen) - 1


@given(label_lists, st.floats(0.01, 1), st.integers(0, 2**31 - 1))
def test_stratified_takes_a_share_of_every_class(
    names: list[int], fraction: float, seed: int
) -> None:
    labels = torch.tensor(names)
    rows = stratified(labels, fraction, seed)
    assert rows.tolist() == sorted(set(rows.tolist()))
    there, chosen = labels.bincount(), labels[rows].bincount(minlength=max(names) + 1)
    for total, have in zip(there.tolist(), chosen.tolist(), strict=True):
        assert have == (max(1, round(total * fraction)) if total else 0)
    assert set(rows.tolist()) <= set(stratified(labels, 1, seed).tolist()) == set(range(len(names)))


@given(label_lists, st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_few_shot_takes_as_many_of_every_class(names: list[int], count: int, seed: int) -> None:
    labels = torch.tensor(names)
    classes = [f"class {label}" for label in range(max(names) + 1)]
    there = labels.bincount()
    if count > there.min():
        message = rf"must be at most the {there.min()} training images of class 'class \d', got"
        with pytest.raises(ConfigError, match=message):
            few_shot(labels, classes, count, seed)
        return
    rows = few_shot(labels, classes, count, seed)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert labels[rows].bincount().tolist() == [count] * len(classes)
    assert set(rows.tolist()) >= set(few_shot(labels, classes, 1, seed).tolist())


def test_stratified_choices_are_nested_and_differ_by_seed() -> None:
    labels = torch.arange(1000) % 4
    small, large = (set(stratified(labels, f, 7).tolist()) for f in (0.1, 0.3))
    assert small < large
    other = set(stratified(labels, 0.1, 8).tolist())
    # Of 100 rows, 10 are expected in both.
    assert len(small & other) < 25
    _, held = hold_out(labels, 0.1)
    assert set(held.tolist()) == set(stratified(labels, 0.1, 0).tolist())


def test_empty_set() -> None:
    kept, held = hold_out(torch.empty(0, dtype=torch.int64), 0.5)
    assert (len(kept), len(held)) == (0, 0)
