from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mulfree.data.splits import balanced, hold_out

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


def test_empty_set() -> None:
    kept, held = hold_out(torch.empty(0, dtype=torch.int64), 0.5)
    assert (len(kept), len(held)) == (0, 0)
