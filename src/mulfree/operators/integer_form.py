"""Integer form of an operator: the conversion of its trained layers to integers.

An operator that can be quantised has a module `integer` with an `INTEGER_FORM`. Quantisation reads
of its layers `weight` and `bias`, and of its window layers also `kernel_size`, `stride`, `padding`,
`dilation` and `groups`, as of `torch.nn.Conv2d`.

Legend: O filters, Kh Kw window, C channels, g groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from mulfree.quantization.qparams import QuantParams

Reals = NDArray[np.float64]


class IntegerWeight(NamedTuple):
    """A layer without its bias as `gain * acc + constant`, where its node computes `acc`.

    Attributes:
        weight: `[O, Kh, Kw, C / g]`, the node's.
        gain: `[O]`.
        constant: `[O]`.
    """

    weight: NDArray[Any]
    gain: Reals
    constant: Reals


class IntegerForm:
    """Base of the integer forms.

    Attributes:
        node: Kind of the node, a layer of `mulfree.nodes`.
        shares_scale: True if the weight has the scale and zero point of the input, False if it has
            a scale per filter.
        linear: True if `acc = sum q_x q_w`: the sums of a classifier can stay in floating point,
            by the node `linear`.
    """

    node: ClassVar[str]
    shares_scale: ClassVar[bool]
    linear: ClassVar[bool] = False

    def check(self, layer: Any) -> tuple[str, str] | None:
        """Return a requirement that the layer does not meet, and the property found; or None."""
        dilations = zip(
            getattr(layer, "dilation", ()), getattr(layer, "kernel_size", ()), strict=True
        )
        if any(dilation > 1 and side > 1 for dilation, side in dilations):
            return "have no dilated layers", f"dilation {layer.dilation}"
        mode = getattr(layer, "padding_mode", "zeros")
        if mode != "zeros":
            return "pad with zeros", f"padding_mode {mode!r}"
        return None

    def fake_weight(self, weight: Tensor, bits: int, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Return the numbers that the integer weight represents, with gradients straight through.

        Args:
            weight: Weight of the layer.
            bits: Bits of the integers.
            scale: Scale of the input.
            zero_point: Zero point of the input.
        """
        raise NotImplementedError

    def fold(
        self, weight: Reals, bits: int, qparams: QuantParams, widened: Callable[[Reals], Reals]
    ) -> IntegerWeight:
        """Return the layer in integers.

        Args:
            weight: `[O, Kh, Kw, C / g]`.
            bits: Bits of the integers.
            qparams: Quantisation parameters of the input, of as many bits.
            widened: Maps scales per filter to the least larger ones for which no factor has to be
                rounded.
        """
        raise NotImplementedError


class ProductForm(IntegerForm):
    """Sums of products of the input and an int8 weight with a scale per filter."""

    shares_scale = False
    linear = True

    def scale(self, weight: Tensor, bits: int) -> Tensor:
        """Return the scale `[O]` for which the largest weight is the largest integer."""
        largest = weight.flatten(1).abs().amax(1).clamp(min=1e-12)
        scale: Tensor = largest / (2 ** (bits - 1) - 1)
        return scale

    def fake_weight(self, weight: Tensor, bits: int, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Return the rounded weight."""
        scale = self.scale(weight, bits).view(-1, *[1] * (weight.ndim - 1))
        rounded: Tensor = (weight / scale).round() * scale
        return weight + (rounded - weight).detach()

    def fold(
        self, weight: Reals, bits: int, qparams: QuantParams, widened: Callable[[Reals], Reals]
    ) -> IntegerWeight:
        """Return int8 weights; the constant is the product with the zero point of the input."""
        scale = widened(self.scale(torch.from_numpy(weight), bits).numpy())
        integers = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
        gain = qparams.scale * scale
        constant = -gain * qparams.zero_point * integers.sum((1, 2, 3), dtype=np.int64)
        return IntegerWeight(integers, gain, constant)
