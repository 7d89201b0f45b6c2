"""ONNX nodes that the emitters of several kinds share; values are `u8[N, C, H, W]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from mulfree.nodes.sliding import SlidingLayer

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder

Made = Mapping[str, str]
"""Names of the ONNX tensors of the values made so far."""

RAISED_ZERO = 128
"""Zero of int8 weights as uint8: where processors lack dot products of bytes, ONNX Runtime sums
pairs of u8 x s8 in 16 bits, which saturate."""


def raised(weight: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return int8 weights as uint8 with the zero `RAISED_ZERO`."""
    return np.ascontiguousarray((weight.astype(np.int16) + RAISED_ZERO).astype(np.uint8))


def scaled(add: GraphBuilder, x: str, factor: int | NDArray[np.int64]) -> str:
    """Add `x * factor` in 64 bits."""
    integers = add("Cast", x, to=TensorProto.INT64)
    return add("Mul", integers, add.constant(np.asarray(factor, np.int64)))


def requantised(
    add: GraphBuilder,
    v: str,
    offset: int | NDArray[np.int64],
    shift: int,
    clamp_min: int,
    clamp_max: int,
) -> str:
    """Add `clamp((v + offset + 2**(shift - 1)) >> shift, clamp_min, clamp_max)`.

    The standard has no shift of signed integers. Its division rounds towards zero and not down:
    the results differ below zero alone, where both are clamped to `clamp_min`.
    """
    rounding = np.asarray(offset, np.int64) + (1 << (shift - 1))
    rounded = add("Add", v, add.constant(np.asarray(rounding, np.int64)))
    shifted = add("Div", rounded, add.constant(np.array(1 << shift, np.int64)))
    bounds = (add.constant(np.array(bound, np.int64)) for bound in (clamp_min, clamp_max))
    return add("Cast", add("Clip", shifted, *bounds), to=TensorProto.UINT8)


def normalised(add: GraphBuilder, node: SlidingLayer, sums: str, made: Made) -> str:
    """Add the epilogue of a layer: factor, offset, residual, requantisation."""
    factors, offsets = (
        array.astype(np.int64)[:, None, None] for array in (node.multiplier, node.offset)
    )
    v = scaled(add, sums, factors)
    if node.residual is not None:
        v = add("Add", v, scaled(add, made[node.residual], node.residual_multiplier))
    return requantised(add, v, offsets, node.shift, node.clamp_min, node.clamp_max)


def looked_up(add: GraphBuilder, x: str, table: NDArray[np.uint8]) -> str:
    """Add `table[c][x]`: one flat table, to whose index each channel adds its start."""
    starts = 256 * np.arange(len(table), dtype=np.int32)[:, None, None]
    index = add("Add", add("Cast", x, to=TensorProto.INT32), add.constant(starts))
    return add("Gather", add.constant(table.reshape(-1)), index, axis=0)
