"""Folding of a layer and its batch norm into integer weights, one factor and one offset per filter.

Legend: O filters, Kh Kw window, C channels, g groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mulfree.nodes import get_node
from mulfree.nodes.sliding import SlidingLayer
from mulfree.operators.integer_form import IntegerForm
from mulfree.quantization.fixed_point import Reals, powers_of_two
from mulfree.quantization.fused_ops import BATCH_NORMS, FusedLayer, LayerModule, Shape
from mulfree.quantization.qparams import QuantParams


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
        weight: `[O, Kh, Kw, C / g]`, the node's.
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
    form: IntegerForm,
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
        form: Integer form of its operator.
        module: The layer.
        batch_norm: The following batch norm.
        qparams: Quantisation parameters of the input.
        map_shape: C, H, W of the input, for the weights of a linear layer.
        bits: Bits of the weights.
        output_scale: Scale of the output; None for logits, which are real numbers.
        power_of_two_scales: Round the factors to powers of two, except for logits.
    """
    weight = _numpy(module.weight)
    if weight.ndim == 2:
        weight = weight.reshape(len(weight), *map_shape)
    weight = weight.transpose(0, 2, 3, 1)
    bias = np.zeros(len(weight)) if module.bias is None else _numpy(module.bias)
    norm_factor = np.ones(len(weight)) if batch_norm is None else batch_norm.factor
    unit = 1.0 if output_scale is None else output_scale
    shifts = power_of_two_scales and output_scale is not None

    def widened(scale: Reals) -> Reals:
        """Enlarge the scales of the weights until the factors are powers of two."""
        if not shifts:
            return scale
        exact = np.abs(norm_factor) * qparams.scale * scale / unit
        wider = powers_of_two(exact, up=True)
        return scale * np.divide(wider, exact, out=np.ones_like(exact), where=exact > 0)

    integers, gain, constant = form.fold(weight, bits, qparams, widened)
    factor = norm_factor * gain / unit
    if shifts:
        factor = powers_of_two(factor)
    constant = constant + bias
    # The rounded factor multiplies the mean, too: the output at the mean stays exact.
    if batch_norm is None:
        offset = constant / unit
    else:
        offset = factor * (constant - batch_norm.mean) / gain + batch_norm.bias / unit
    node = get_node(form.node)
    assert issubclass(node, SlidingLayer)
    return Folded(
        weight=np.ascontiguousarray(integers),
        factor=factor,
        offset=offset,
        largest=weight[0].size * node.largest_product,
    )


def _numpy(tensor: Tensor) -> Reals:
    array: Reals = tensor.detach().to("cpu").double().numpy()
    return array
