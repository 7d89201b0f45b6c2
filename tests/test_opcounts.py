from __future__ import annotations

import pytest

from mulfree.opcounts import KINDS, OpCounts


def test_a_mapping_over_all_kinds() -> None:
    counts = OpCounts(mul=1, shift=2)
    assert KINDS == ("mul", "add", "shift", "xnor", "compare", "lookup")
    assert dict(counts) == {"mul": 1, "add": 0, "shift": 2, "xnor": 0, "compare": 0, "lookup": 0}
    assert len(counts) == 6
    with pytest.raises(KeyError, match="total"):
        counts["total"]


def test_arithmetic_by_kind() -> None:
    counts = OpCounts(mul=1, add=2, shift=3, xnor=4, compare=5, lookup=6)
    assert counts + OpCounts(mul=10, compare=50) == OpCounts(
        mul=11, add=2, shift=3, xnor=4, compare=55, lookup=6
    )
    assert counts * 3 == OpCounts(mul=3, add=6, shift=9, xnor=12, compare=15, lookup=18)
    assert counts.total == 21
