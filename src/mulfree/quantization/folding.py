"""A layer and the normalisation behind it as integer weights, one factor and one summand a filter.

Legend: O filters, Kh Kw window, C channels, g groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mulfree.quantization.fixed_point import Reals, powers_of_two
from mulfree.quantization.fused_ops import ADDER, LINEAR, NORMS, AnyLayer, Layer, Shape
from mulfree.quantization.qparams import Grid

_TAPS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm:
    """A batch normalisation in evaluation, `factor * (y - mean) + bias`, each `[O]`."""

    factor: Reals
    mean: Reals
    bias: Reals


@dataclass(frozen=True, kw_only=True, eq=False)
class Folded:
    """Layer and normalisation: `factor * acc + offset`, in steps of the value that is made.

    Attributes:
        weight: `[O, Kh, Kw, C / g]`, uint8 of an adder layer, int8 of a convolution.
        factor: `[O]`.
        offset: `[O]`, without the zero of the value that is made.
        largest: Bound of the magnitude of acc.
    """

    weight: NDArray[Any]
    factor: Reals
    offset: Reals
    largest: int


def norm_of(model: nn.Module, step: Layer) -> Norm | None:
    """The batch normalisation of a step."""
    if step.norm is None:
        return None
    module = model.get_submodule(step.norm)
    assert isinstance(module, NORMS)
    assert module.running_mean is not None
    assert module.running_var is not None
    mean = _numpy(module.running_mean)
    factor = 1 / np.sqrt(_numpy(module.running_var) + module.eps)
    if not module.affine:
        return Norm(factor=factor, mean=mean, bias=np.zeros_like(mean))
    return Norm(factor=factor * _numpy(module.weight), mean=mean, bias=_numpy(module.bias))


def fold(
    module: AnyLayer,
    norm: Norm | None,
    grid: Grid,
    *,
    map_shape: Shape,
    bits: int,
    scale: float | None,
    shift_only: bool,
) -> Folded:
    """The layer, reading integers of `grid`, and its normalisation.

    Args:
        module: The layer.
        norm: What is behind it.
        grid: What it reads.
        map_shape: C, H, W of what it reads, for a linear layer's weights.
        bits: Bits of a convolution's weights; those of an adder layer are on `grid`.
        scale: Of the value that is made; None for logits, which are real numbers.
        shift_only: Make the factors powers of two, unless they are those of logits.
    """
    weight = _numpy(module.weight)
    if isinstance(module, LINEAR):
        weight = weight.reshape(len(weight), *map_shape)
    weight = weight.transpose(0, 2, 3, 1)
    bias = np.zeros(len(weight)) if module.bias is None else _numpy(module.bias)
    norm_factor = np.ones(len(weight)) if norm is None else norm.factor
    unit = 1.0 if scale is None else scale
    shifts = shift_only and scale is not None
    if isinstance(module, ADDER):
        integers, constant = _on_grid(weight, grid)
        gain = np.full(len(weight), grid.scale)
        product = 255
    else:
        step = np.abs(weight).max(_TAPS).clip(1e-12) / (2 ** (bits - 1) - 1)
        if shifts:
            # Wider steps, with which the factor becomes a power of two.
            exact = np.abs(norm_factor) * grid.scale * step / unit
            wider = powers_of_two(exact, up=True)
            step *= np.divide(wider, exact, out=np.ones_like(exact), where=exact > 0)
        integers = np.rint(weight / step[:, None, None, None]).astype(np.int8)
        gain = grid.scale * step
        constant = -gain * grid.zero * integers.sum(_TAPS, dtype=np.int64)
        product = 255 * 128
    factor = norm_factor * gain / unit
    if shifts:
        factor = powers_of_two(factor)
    constant += bias
    # What becomes of the normalisation's mean stays, however the factor was rounded.
    if norm is None:
        offset = constant / unit
    else:
        offset = factor * (constant - norm.mean) / gain + norm.bias / unit
    return Folded(
        weight=np.ascontiguousarray(integers),
        factor=factor,
        offset=offset,
        largest=weight[0].size * product,
    )


def _on_grid(weight: Reals, grid: Grid) -> tuple[NDArray[np.uint8], Reals]:
    """Weights of an adder layer on the grid of its input, and what is lost by that.

    `|x - w| = |x - clip(w)| + |w - clip(w)|` for every x on the grid, so that clipping costs a
    constant only.
    """
    clipped = weight.clip(grid.low, grid.high)
    integers = (np.rint(clipped / grid.scale) + grid.zero).clip(0, grid.top)
    return integers.astype(np.uint8), -np.abs(weight - clipped).sum(_TAPS)


def _numpy(tensor: Tensor) -> Reals:
    array: Reals = tensor.detach().to("cpu").double().numpy()
    return array
