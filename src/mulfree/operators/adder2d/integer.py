"""Integer form of the adder operator.

`|x - w| = s |q_x - q_w|` needs one scale for input and weight. A weight outside the range of the
input is clipped at the cost of a constant: `|x - w| = |x - clip(w)| + |w - clip(w)|` for every x in
the range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mulfree.operators.integer_form import IntegerForm, IntegerWeight, Reals

if TYPE_CHECKING:
    from mulfree.quantization.qparams import QuantParams


class _AdderForm(IntegerForm):
    """The adder layer with the scale of its input."""

    node = "adder2d"
    shares_scale = True

    def check(self, layer: Any) -> tuple[str, str] | None:
        """Refuse other exponents than 1 as well."""
        found = super().check(layer)
        if found is None and layer.norm != 1.0:
            return "have plain adder layers (norm 1)", f"norm {layer.norm}"
        return found

    def fake_weight(self, weight: Tensor, bits: int, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Return the rounded weight; one outside the range keeps its distance to the range."""
        largest = 2**bits - 1
        clipped = weight.clamp(-scale * zero_point, scale * (largest - zero_point))
        rounded = torch.fake_quantize_per_tensor_affine(weight, scale, zero_point, 0, largest)
        return weight + (rounded - clipped).detach()

    def fold(
        self, weight: Reals, bits: int, qparams: QuantParams, widened: Callable[[Reals], Reals]
    ) -> IntegerWeight:
        """Return uint8 weights; the constant is the distance lost by clipping."""
        clipped = weight.clip(qparams.low, qparams.high)
        integers = (np.rint(clipped / qparams.scale) + qparams.zero_point).clip(0, qparams.qmax)
        constant = -np.abs(weight - clipped).sum((1, 2, 3))
        gain = np.full(len(weight), qparams.scale)
        return IntegerWeight(integers.astype(np.uint8), gain, constant)


INTEGER_FORM = _AdderForm()
