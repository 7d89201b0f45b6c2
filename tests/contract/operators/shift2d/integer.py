"""Integer form of the toy: int8 weights that are powers of two, run as a convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mulfree.operators.integer_form import IntegerWeight, ProductForm, Reals

from . import rounded

if TYPE_CHECKING:
    from mulfree.quantization.qparams import QuantParams


class _ShiftForm(ProductForm):
    node = "conv2d"

    def scale(self, weight: Tensor, bits: int) -> Tensor:
        largest = weight.flatten(1).abs().amax(1).clamp(min=1e-12)
        return largest / 2.0 ** (bits - 2)

    def fake_weight(self, weight: Tensor, bits: int, scale: Tensor, zero_point: Tensor) -> Tensor:
        made = super().fake_weight(rounded(weight), bits, scale, zero_point)
        return weight + (made - weight).detach()

    def fold(
        self, weight: Reals, bits: int, qparams: QuantParams, widened: Callable[[Reals], Reals]
    ) -> IntegerWeight:
        powers = rounded(torch.from_numpy(weight)).numpy()
        return super().fold(powers, bits, qparams, widened)


INTEGER_FORM = _ShiftForm()
