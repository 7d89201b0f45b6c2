from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mulfree.errors import ConfigError
from mulfree.quantization.fixed_point import fixed_point, powers_of_two


def test_the_largest_factor_has_31_bits() -> None:
    factor = np.array([0.75, -1e-3, 0.0])
    fixed = fixed_point([factor, 0.01], [1000, 255], np.array([5.0, 0.0, -3.0]), "layer")
    assert 2**30 <= np.abs(fixed.factors[0]).max() < 2**31
    assert fixed.shift == 31
    real = fixed.factors[0] / 2.0**fixed.shift
    assert np.abs(real - factor).max() <= 2.0**-32
    assert fixed.factors[1] == round(0.01 * 2**31)
    assert_array_equal(fixed.offset, np.array([5, 0, -3]) << 31)


@pytest.mark.parametrize("largest", [1, 255 * 128 * 25_000, 2**31 - 1])
@pytest.mark.parametrize("factor", [1e-12, 1e-4, 1.0, 2.0**29])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_no_sum_leaves_62_bits(largest: int, factor: float, offset: float) -> None:
    fixed = fixed_point([factor], [largest], offset, "layer")
    one = int(fixed.factors[0])
    assert 0 <= one < 2**31
    assert one * largest + abs(int(fixed.offset)) + 2 ** (fixed.shift - 1) < 2**62
    # Rounding a factor moves a sum by half of its last bit at most.
    error = abs(one / 2.0**fixed.shift - factor) * largest
    assert error <= largest * 2.0 ** (-fixed.shift - 1)


def test_factors_that_are_too_large() -> None:
    with pytest.raises(ConfigError, match=r"factors that fit 31 bits, got 4e\+09 at layer1\.conv"):
        fixed_point([np.array([4e9])], [255], 0.0, "layer1.conv")


def test_powers_of_two() -> None:
    factors = np.array([0.0, 1.0, -1.4, 1.5, -0.26, 3.0])
    assert_array_equal(powers_of_two(factors), [0, 1, -1, 2, -0.25, 4])
    assert_array_equal(powers_of_two(factors, up=True), [0, 1, -2, 2, -0.5, 4])


@pytest.mark.parametrize("factor", [1e-5, 0.0039, 1.0, -3.0])
def test_fewer_bits_of_sums(factor: float) -> None:
    fixed = fixed_point([factor], [65025], 100.0, "gate", sum_bits=30)
    bound = 65025 * abs(int(fixed.factors[0])) + int(fixed.offset) + 2 ** (fixed.shift - 1)
    assert 2**28 < bound < 2**30
    assert fixed.factors[0] == round(factor * 2**fixed.shift)
