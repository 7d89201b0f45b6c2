from __future__ import annotations

import pytest
import torch

from mulfree.quantization.observers import OBSERVERS, observe


def seen(observer: str, bits: int, x: torch.Tensor) -> tuple[float, float]:
    low, high = observe(observer, bits, x)
    return float(low), float(high)


def test_percentile_drops_the_outermost() -> None:
    # The index of AdderQuant: int((round(0.9997 * 20000) - 1) * 0.9997) = 19987.
    x = torch.arange(20000.0)[torch.randperm(20000)].view(10, 20, 10, 10)
    assert seen("percentile", 8, x) == (20000 - 1 - 19987, 19987)
    assert seen("minmax", 4, x) == (0, 19999)


def test_auto_drops_nothing_with_eight_bits() -> None:
    x = torch.randn(20000)
    assert seen("auto", 8, x) == seen("minmax", 8, x)
    assert seen("auto", 4, x) == seen("percentile", 4, x)
    assert seen("auto", 4, x) != seen("minmax", 4, x)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_single_numbers(observer: str) -> None:
    assert seen(observer, 4, torch.tensor([[2.5]])) == (2.5, 2.5)
