"""Fixed-point form of real factors: integers with a common shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import ConfigError

Reals = NDArray[np.float64]

_LARGEST_SHIFT = 62
_LARGEST_FACTOR = 2**31 - 1
_SUM_BITS = 62


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedPoint:
    """`(sum_i x_i * factors[i] + offset) >> shift`.

    Attributes:
        factors: Of 32 bits.
        offset: Of 64 bits.
        shift: 1..62.
    """

    factors: tuple[NDArray[np.int32], ...]
    offset: NDArray[np.int64]
    shift: int


def fixed_point(
    factors: Sequence[Reals | float],
    largest: Sequence[int],
    offset: Reals | float,
    path: str,
    *,
    sum_bits: int = _SUM_BITS,
) -> FixedPoint:
    """Most precise fixed-point form of `sum_i factors[i] * x_i + offset`.

    Rounds to the nearest multiple of `2^-shift`, with the largest shift for which factors have 32
    bits and no sum, with x_i up to `largest[i]`, exceeds `sum_bits`.

    Args:
        factors: One number or array per summand.
        largest: Largest magnitudes of the x_i.
        offset: Constant summand.
        path: Location in the model, for the error message.
        sum_bits: Bits of the magnitude of every sum, with the rounding term.

    Raises:
        ConfigError: A factor is too large.
    """
    for shift in range(_LARGEST_SHIFT, 0, -1):
        scaled = [np.rint(np.ldexp(factor, shift)) for factor in factors]
        added = np.rint(np.ldexp(offset, shift))
        peaks = [float(np.abs(numbers).max()) for numbers in scaled]
        bound = sum(peak * x for peak, x in zip(peaks, largest, strict=True))
        bound += float(np.abs(added).max()) + 2.0 ** (shift - 1)
        # Margin for the rounding of the bound itself.
        if max(peaks) <= _LARGEST_FACTOR and bound < 2.0**sum_bits * (1 - 1e-9):
            return FixedPoint(
                factors=tuple(numbers.astype(np.int32) for numbers in scaled),
                offset=added.astype(np.int64),
                shift=shift,
            )
    widest = max(float(np.abs(factor).max()) for factor in factors)
    raise ConfigError(
        f"quantize: `model` must have factors that fit 31 bits, got {widest:.3g} at {path}"
    )


def powers_of_two(factors: Reals, *, up: bool = False) -> Reals:
    """Every factor rounded to a power of two, keeping its sign: to the nearest, or up."""
    magnitudes = np.abs(factors)
    exponents = np.log2(np.where(magnitudes == 0, 1, magnitudes))
    rounded = np.ceil(exponents - 1e-9) if up else np.rint(exponents)
    powers: Reals = np.sign(factors) * np.exp2(rounded)
    return powers
