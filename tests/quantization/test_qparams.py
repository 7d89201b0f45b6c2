from __future__ import annotations

import pytest

from mulfree.quantization.qparams import QuantParams


def test_behind_a_relu_all_integers_are_used() -> None:
    qparams = QuantParams.from_range(0.0, 5.1, 8)
    assert (qparams.zero_point, qparams.qmax, qparams.low) == (0, 255, 0.0)
    assert qparams.scale == pytest.approx(0.02)
    assert qparams.high == pytest.approx(5.1)


def test_signed_numbers_share_the_integers() -> None:
    qparams = QuantParams.from_range(-1.0, 3.0, 4)
    assert qparams.zero_point == 4
    assert qparams.scale == pytest.approx(4 / 15)
    assert qparams.low == pytest.approx(-4 * 4 / 15)
    assert qparams.high == pytest.approx(11 * 4 / 15)


@pytest.mark.parametrize(("low", "high"), [(2.0, 4.0), (-4.0, -2.0), (0.0, 0.0)])
def test_zero_is_always_represented(low: float, high: float) -> None:
    qparams = QuantParams.from_range(low, high, 8)
    assert 0 <= qparams.zero_point <= 255
    assert qparams.low <= min(low, 0.0)
    assert qparams.high >= max(high, 0.0)
    assert qparams.scale >= 1e-3 / 255


@pytest.mark.parametrize("base", [1.0, 0.3])
@pytest.mark.parametrize("high", [0.255, 0.256, 255.0, 255.1])
def test_powers_of_two_are_wide_enough(base: float, high: float) -> None:
    qparams = QuantParams.from_range(0.0, high, 8, power_of_two=base)
    ratio = qparams.scale / base
    while ratio < 1:
        ratio *= 2
    while ratio > 1:
        ratio /= 2
    assert ratio == 1
    assert high * (1 - 1e-8) <= qparams.high < 2 * high
