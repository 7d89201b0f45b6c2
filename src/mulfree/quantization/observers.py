"""Which range the numbers of a value have, learned from batches."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

from mulfree.quantization.qparams import FULL

Range: TypeAlias = tuple[Tensor, Tensor]

_KEPT = 0.9997


def extremes(x: Tensor) -> Range:
    """The least and the greatest number."""
    low, high = x.aminmax()
    return low, high


def percentile(x: Tensor) -> Range:
    """The range without the outermost 0.03 % on each side; of one side where nothing is negative.

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
    """Whether `observe` leaves numbers out."""
    return observer == "percentile" or (observer == "auto" and bits < FULL)


def observe(observer: str, bits: int, x: Tensor) -> Range:
    """The range of the numbers of one batch.

    Args:
        observer: "minmax", "percentile", or "auto": all numbers where there are 8 bits for them,
            as large numbers tell more than the last bit does, and `percentile` where there are
            fewer.
        bits: Of the integers for them.
        x: The numbers.
    """
    return percentile(x) if cuts(observer, bits) else extremes(x)
