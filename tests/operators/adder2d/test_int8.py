from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from mulfree.errors import DTypeError, ShapeError
from mulfree.functional import adder2d
from mulfree.operators.adder2d.int8 import adder2d_int8


def test_by_hand() -> None:
    x = torch.tensor([[[[0, 255], [7, 3]]]], dtype=torch.uint8)
    w = torch.tensor([[[[1, 250], [7, 9]]], [[[0, 0], [0, 0]]]], dtype=torch.uint8)
    assert adder2d_int8(x, w).tolist() == [[[[-12]], [[-265]]]]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("zero", [0, 37])
def test_equals_the_operator_on_the_integers(groups: int, zero: int) -> None:
    x = torch.randint(0, 256, (2, 4, 7, 6), dtype=torch.uint8)
    w = torch.randint(0, 256, (6, 4 // groups, 3, 2), dtype=torch.uint8)
    padded = functional.pad(x.double(), (2, 2, 1, 1), value=zero)
    expected = adder2d(padded, w.double(), None, (2, 1), 0, 1, groups)
    result = adder2d_int8(x, w, (2, 1), (1, 2), groups, zero=zero)
    assert result.dtype == torch.int32
    assert torch.equal(result.double(), expected)


X = torch.zeros(1, 4, 3, 3, dtype=torch.uint8)
W = torch.zeros(2, 4, 3, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X.int(), W), DTypeError, r"`input` must be uint8, got torch.int32"),
        ((X, W.float()), DTypeError, r"`weight` must be uint8, got torch.float32"),
        ((X[0], W), ShapeError, r"`input` must have four dimensions, got \[4, 3, 3\]"),
        ((X, W, 1, 0, 2), ShapeError, r"`groups` must divide C_in \(=4\) into parts"),
        ((X, W, 1, 0, 0), ShapeError, r"`groups` must be an integer .* >= 1, got 0"),
        ((X, W, 1, 0, 1.0), ShapeError, r"`groups` must be an integer .* got 1.0"),
        ((X.numpy(), W), DTypeError, r"`input` must be a torch.Tensor, got numpy.ndarray"),
        ((X, W.to_sparse()), ShapeError, r"`weight` must be a dense tensor, got .* sparse_coo"),
        ((X[:, :, :2], W), ShapeError, r"`input` must be at least as large as the window"),
        ((X, W, 0), ShapeError, r"`stride` must be an integer"),
        (
            (X.expand(1, 4, 3, 3), W.expand(2, 4, 3, 3)[:, :1].expand(2, 4, 3, 3), 1, -1),
            ShapeError,
            r"`padding` must be",
        ),
    ],
)
def test_mistakes(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"adder2d_int8: " + message):
        adder2d_int8(*arguments)


def test_too_many_taps() -> None:
    # Views of single numbers: nothing of that size is in memory.
    x = torch.zeros(1, dtype=torch.uint8).expand(1, 1, 3000, 3000)
    with pytest.raises(ShapeError, match=r"`weight` must have at most 8421504 taps a filter"):
        adder2d_int8(x, x)
