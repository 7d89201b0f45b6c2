"""Integer resizing: its weights, its definition, and PyTorch's bilinear one in floating point."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional

from mulfree.runtime.resize import BITS, resize, resize_reference, weights

SIZES = [(32, 24), (32, 16), (16, 32), (48, 20), (33, 7), (1, 5), (5, 1), (9, 8)]


@pytest.mark.parametrize(("old", "new"), [*SIZES, (224, 112)])
def test_weights_are_the_nearest_integers_with_their_sum(old: int, new: int) -> None:
    found = weights(old, new)
    assert (found.sum(1) == 1 << BITS).all()
    assert (found >= 0).all()
    stretch = max(Fraction(old, new), Fraction(1))
    for i in range(new):
        centre = (i + Fraction(1, 2)) * Fraction(old, new)
        exact = [
            max(Fraction(0), 1 - abs(j + Fraction(1, 2) - centre) / stretch) for j in range(old)
        ]
        total = sum(exact)
        for j in range(old):
            assert abs(found[i, j] - exact[j] / total * 2**BITS) < 1


def test_weights_of_three_quarters_by_hand() -> None:
    # s = 8, and |3 (2 j + 1) - 4| is 1, 5, 11 and 17 for the first: 7 and 3 tenths of 2048.
    assert weights(4, 3).tolist() == [[1434, 614, 0, 0], [0, 1024, 1024, 0], [0, 0, 614, 1434]]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_the_fast_way_equals_the_definition(old: int, new: int) -> None:
    images = np.random.default_rng(old).integers(0, 256, (35, 2, old, old + 2), np.uint8)
    images[0], images[1] = 0, 255
    found = resize(images, new)
    assert found.dtype == np.uint8
    assert np.array_equal(found, resize_reference(images, new))
    assert (found[0] == 0).all()
    assert (found[1] == 255).all()
    expected = functional.interpolate(
        torch.from_numpy(images).float(), (new, new), mode="bilinear", antialias=True
    ).numpy()
    # Half a level by rounding, and the rounded weights.
    assert np.abs(found - expected).max() < 0.7


def test_nothing_to_do() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)
    assert resize(images, 8) is images
    assert np.array_equal(resize_reference(images, 8), images)
    assert resize(images[:0], 4).shape == (0, 3, 4, 4)
