"""Quantisation parameters: scale and zero point of unsigned integers of 4 to 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

BITS = (8, 6, 5, 4)
DEFAULT_BITS = 8
MIN_RANGE = 1e-3
"""Width of the narrowest range; a narrower one is widened."""

TensorQuantParams: TypeAlias = tuple[Tensor, Tensor]
"""Scale, float32, and zero point, int32."""


@dataclass(frozen=True, kw_only=True)
class QuantParams:
    """Integers `q` in 0..2^bits - 1 represent `scale * (q - zero_point)`."""

    scale: float
    zero_point: int
    bits: int

    @property
    def qmax(self) -> int:
        """Largest integer."""
        return (1 << self.bits) - 1

    @property
    def low(self) -> float:
        """Smallest number represented."""
        return -self.scale * self.zero_point

    @property
    def high(self) -> float:
        """Largest number represented."""
        return self.scale * (self.qmax - self.zero_point)

    @classmethod
    def from_range(
        cls, low: float, high: float, bits: int, *, power_of_two: float | None = None
    ) -> QuantParams:
        """Parameters that cover `low` to `high` and represent 0 exactly.

        Args:
            low: Lower end of the range.
            high: Upper end of the range.
            bits: Bits of the integers.
            power_of_two: Widen the range until the scale is a power of two times this number.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        width = max(high - low, MIN_RANGE)
        scale = width / (2**bits - 1)
        if power_of_two is not None:
            scale = power_of_two * 2.0 ** math.ceil(math.log2(scale / power_of_two) - 1e-9)
        return cls(scale=scale, zero_point=round(-low / scale), bits=bits)

    def tensors(self) -> TensorQuantParams:
        """Scale and zero point as tensors."""
        return torch.tensor(self.scale), torch.tensor(self.zero_point, dtype=torch.int32)
