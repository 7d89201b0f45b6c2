from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mulfree.errors import ShapeError
from mulfree.operators.window import (
    SAMPLES,
    ConvProblem,
    check_values,
    integer,
    output_size,
    pair,
    resolve_padding,
)

# Neither an integer in range nor made of two.
NO_SIZES: tuple[Any, ...] = (
    *(2**63, 2**31, -1, 10**5000, 1.0, np.float32(1), True, "1", b"1", None, 1j),
    *(np.array(1), torch.tensor(1), {}, float("nan")),
)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((32, 3, 1, 1, 1), 32),
        ((32, 3, 2, 1, 1), 16),
        ((7, 7, 1, 0, 1), 1),
        ((7, 7, 1, 0, 2), -5),
        ((10, 3, 1, 2, 2), 10),
    ],
)
def test_output_size(arguments: tuple[int, int, int, int, int], expected: int) -> None:
    assert output_size(*arguments) == expected


def test_pair_takes_one_number_or_two() -> None:
    assert pair("f", "stride", 3, 1) == (3, 3)
    assert pair("f", "stride", (1, 2), 1) == (1, 2)
    assert pair("f", "stride", [1, 2**31 - 1], 1) == (1, 2**31 - 1)


def test_sizes_of_numpy_become_those_of_python() -> None:
    sizes: Any = (np.int64(3), np.uint8(2))
    assert [type(size) for size in pair("f", "stride", sizes, 1)] == [int, int]
    assert type(integer("f", "groups", sizes[0], 1)) is int


@pytest.mark.parametrize("value", NO_SIZES, ids=range(len(NO_SIZES)))
def test_what_is_no_size_is_one_line(value: Any) -> None:
    for call in (
        lambda: integer("f", "groups", value, 0),
        lambda: pair("f", "stride", value, 0),
        lambda: pair("f", "stride", (1, value), 0),
    ):
        with pytest.raises(
            ShapeError, match=r"^f: `\w+` must be an integer .* >= 0, got"
        ) as caught:
            call()
        assert len(str(caught.value)) <= 300


def test_sequence_that_would_not_fit_in_memory_is_not_read() -> None:
    with pytest.raises(ShapeError, match=r"a pair of integers .* got range\(0, 1000000000000\)"):
        pair("f", "stride", range(10**12), 1)


def test_values_are_bounded() -> None:
    check_values("f", "output", (2**20, 2**20))
    with pytest.raises(
        ShapeError, match=r"^f: `output` must have at most 2\*\*40 values, got shape"
    ):
        check_values("f", "output", (2**20, 2**20, 2))


def test_same_padding_puts_the_odd_line_last() -> None:
    assert resolve_padding("f", "same", (3, 4), (1, 1), (2, 1)) == ((2, 1), (0, 1, 0, 0))
    assert resolve_padding("f", "same", (3, 5), (1, 1), (1, 1)) == ((1, 2), None)
    assert resolve_padding("f", "valid", (3, 4), (2, 1), (2, 1)) == ((0, 0), None)


def test_window_shapes_and_name() -> None:
    window = ConvProblem(in_channels=4, out_channels=6, groups=2, stride=(2, 1), size=(9, 8))
    assert window.input_shape == (2, 4, 9, 8)
    assert window.weight_shape == (6, 2, 3, 3)
    assert window.output_shape == (2, 6, 5, 8)
    assert str(window) == "n2c4o6x9x8k3x3s21p11g2"
    assert len({str(sample) for sample in SAMPLES}) == len(SAMPLES)
