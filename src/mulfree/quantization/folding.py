"""Folding of a layer and its batch norm into integer weights, one factor and one offset per filter.

Legend: O filters, Kh Kw window, C channels, g groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mulfree.quantization.fixed_point import Reals, powers_of_two
from mulfree.quantization.fused_ops import (
    ADDER,
    BATCH_NORMS,
    LINEAR,
    FusedLayer,
    LayerModule,
    Shape,
)
from mulfree.quantization.qparams import QuantParams

_TAPS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchNormParams:
    """Batch norm in evaluation mode, `factor * (y - mean) + bias`, each `[O]`."""

    factor: Reals
    mean: Reals
    bias: Reals


@dataclass(frozen=True, kw_only=True, eq=False)
class Folded:
    """Layer and batch norm as `factor * acc + offset`, in units of the output scale.

    Attributes:
        weight: `[O, Kh, Kw, C / g]`, uint8 of an adder layer, int8 of a convolution.
        factor: `[O]`.
        offset: `[O]`, without the output's zero point.
        largest: Bound of the magnitude of acc.
    """

    weight: NDArray[Any]
    factor: Reals
    offset: Reals
    largest: int


def batch_norm_params(model: nn.Module, op: FusedLayer) -> BatchNormParams | None:
    """Batch norm of a fused layer, or None if it has none."""
    if op.batch_norm is None:
        return None
    module = model.get_submodule(op.batch_norm)
    assert isinstance(module, BATCH_NORMS)
    assert module.running_mean is not None
    assert module.running_var is not None
    mean = _numpy(module.running_mean)
    factor = 1 / np.sqrt(_numpy(module.running_var) + module.eps)
    if not module.affine:
        return BatchNormParams(factor=factor, mean=mean, bias=np.zeros_like(mean))
    factor = factor * _numpy(module.weight)
    return BatchNormParams(factor=factor, mean=mean, bias=_numpy(module.bias))


def fold(
    module: LayerModule,
    batch_norm: BatchNormParams | None,
    qparams: QuantParams,
    *,
    map_shape: Shape,
    bits: int,
    output_scale: float | None,
    power_of_two_scales: bool,
) -> Folded:
    """Fold a layer and its batch norm.

    Args:
        module: The layer.
        batch_norm: The following batch norm.
        qparams: Quantisation parameters of the input.
        map_shape: C, H, W of the input, for the weights of a linear layer.
        bits: Bits of a convolution's weights; adder weights have `qparams`.
        output_scale: Scale of the output; None for logits, which are real numbers.
        power_of_two_scales: Round the factors to powers of two, except for logits.
    """
    weight = _numpy(module.weight)
    if isinstance(module, LINEAR):
        weight = weight.reshape(len(weight), *map_shape)
    weight = weight.transpose(0, 2, 3, 1)
    bias = np.zeros(len(weight)) if module.bias is None else _numpy(module.bias)
    norm_factor = np.ones(len(weight)) if batch_norm is None else batch_norm.factor
    unit = 1.0 if output_scale is None else output_scale
    shifts = power_of_two_scales and output_scale is not None
    if isinstance(module, ADDER):
        integers, constant = _adder_weights(weight, qparams)
        gain = np.full(len(weight), qparams.scale)
        product = 255
    else:
        scale = np.abs(weight).max(_TAPS).clip(1e-12) / (2 ** (bits - 1) - 1)
        if shifts:
            # Enlarge the weight scale until the factor is a power of two.
            exact = np.abs(norm_factor) * qparams.scale * scale / unit
            wider = powers_of_two(exact, up=True)
            scale *= np.divide(wider, exact, out=np.ones_like(exact), where=exact > 0)
        integers = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
        gain = qparams.scale * scale
        constant = -gain * qparams.zero_point * integers.sum(_TAPS, dtype=np.int64)
        product = 255 * 128
    factor = norm_factor * gain / unit
    if shifts:
        factor = powers_of_two(factor)
    constant += bias
    # The rounded factor multiplies the mean, too: the output at the mean stays exact.
    if batch_norm is None:
        offset = constant / unit
    else:
        offset = factor * (constant - batch_norm.mean) / gain + batch_norm.bias / unit
    return Folded(
        weight=np.ascontiguousarray(integers),
        factor=factor,
        offset=offset,
        largest=weight[0].size * product,
    )


def _adder_weights(weight: Reals, qparams: QuantParams) -> tuple[NDArray[np.uint8], Reals]:
    """Integer weights with the parameters of the input, and the constant lost by clipping.

    `|x - w| = |x - clip(w)| + |w - clip(w)|` for every x in the range: clipping costs a constant.
    """
    clipped = weight.clip(qparams.low, qparams.high)
    integers = (np.rint(clipped / qparams.scale) + qparams.zero_point).clip(0, qparams.qmax)
    return integers.astype(np.uint8), -np.abs(weight - clipped).sum(_TAPS)


def _numpy(tensor: Tensor) -> Reals:
    array: Reals = tensor.detach().to("cpu").double().numpy()
    return array
