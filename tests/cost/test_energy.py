from __future__ import annotations

import pytest

from mulfree.cost import ENERGY_45NM, energy
from mulfree.errors import ConfigError
from mulfree.opcounts import OpCounts


def test_a_pair_in_a_convolution_and_in_an_adder_layer_takes_what_the_papers_say() -> None:
    convolution, adder = OpCounts(mul=1, add=1), OpCounts(add=2)
    for dtype, pair, taps in (
        ("fp32", 4.6, 1.8),
        ("fp16", 1.5, 0.8),
        ("int32", 3.2, 0.2),
        ("int8", 0.23, 0.06),
    ):
        assert energy(convolution, dtype) == pytest.approx(pair)
        assert energy(adder, dtype) == pytest.approx(taps)


def test_shifts_and_comparisons() -> None:
    # XNOR is neglected.
    assert energy(OpCounts(shift=1000, xnor=1000)) == pytest.approx(130.0)
    assert energy(OpCounts(shift=10, compare=10), "int8") == pytest.approx(0.24 + 0.3)


def test_sizes_of_numbers() -> None:
    assert {name: unit.itemsize for name, unit in ENERGY_45NM.items()} == {
        "fp32": 4,
        "fp16": 2,
        "int32": 4,
        "int8": 1,
    }


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ConfigError, match=r"`dtype` must be one of fp16, .*, got 'fp31'; did you"):
        energy(OpCounts(), "fp31")
