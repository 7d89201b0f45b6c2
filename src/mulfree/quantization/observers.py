"""Range observers: the range of a value's numbers in one batch."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

from mulfree.quantization.qparams import DEFAULT_BITS

Range: TypeAlias = tuple[Tensor, Tensor]

_KEPT = 0.9997


def extremes(x: Tensor) -> Range:
    """Minimum and maximum."""
    low, high = x.aminmax()
    return low, high


def percentile(x: Tensor) -> Range:
    """Range without the outermost 0.03 % on each side; on one side if no number is negative.

    References:
        AdderQuant, arXiv 2212.10200: the number at index
        `int((round(0.9997 n) - 1) * 0.9997)` of the sorted magnitudes.
    """
    flat = x.flatten()
    index = max(int((round(_KEPT * flat.numel()) - 1) * _KEPT), 0)
    high = flat.kthvalue(index + 1).values
    low = flat.kthvalue(flat.numel() - index).values
    return low, high


OBSERVERS = ("auto", "minmax", "percentile")


def cuts(observer: str, bits: int) -> bool:
    """True if `observe` clips outliers."""
    return observer == "percentile" or (observer == "auto" and bits < DEFAULT_BITS)


def observe(observer: str, bits: int, x: Tensor) -> Range:
    """Range of the numbers of one batch.

    Args:
        observer: "minmax", "percentile", or "auto": minmax for 8 bits, where outliers matter more
            than the last bit, and percentile for fewer.
        bits: Bits of the integers.
        x: The numbers.
    """
    return percentile(x) if cuts(observer, bits) else extremes(x)
