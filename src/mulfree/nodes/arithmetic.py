"""Arithmetic that the definitions of several nodes share, in numpy.

Legend: N images, C channels, H W rows and columns, O filters, Kh Kw window, g groups, h w rows and
columns of the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.sliding import Margins, Pair, SlidingLayer

U8 = NDArray[np.uint8]
Made = Mapping[str, U8]
"""The values made so far, `u8[N, H, W, C]` by name."""


def requantise(v: NDArray[np.int64], shift: int, clamp_min: int, clamp_max: int) -> U8:
    """Return `clamp((v + (1 << (shift - 1))) >> shift, ...)`; the shift rounds down."""
    made: U8 = np.clip((v + (1 << (shift - 1))) >> shift, clamp_min, clamp_max).astype(np.uint8)
    return made


def normalised(node: SlidingLayer, accumulator: NDArray[np.int32], made: Made) -> U8:
    """Return the epilogue of a layer: factor, offset, residual, requantisation."""
    v = accumulator.astype(np.int64) * node.multiplier + node.offset
    if node.residual is not None:
        v += node.residual_multiplier * made[node.residual].astype(np.int64)
    return requantise(v, node.shift, node.clamp_min, node.clamp_max)


def per_filter(
    x: U8, weight: NDArray[Any], stride: Pair, margins: Margins, groups: int, zero: int
) -> Iterator[tuple[U8, NDArray[Any]]]:
    """Return for each filter its windows `[N, h, w, Kh, Kw, C / g]` and its taps.

    Args:
        x: `[N, H, W, C]`.
        weight: `[O, Kh, Kw, C / g]`.
        stride: Rows, columns.
        margins: Rows above, columns left, rows below, columns right; filled with `zero`.
        groups: g.
        zero: The integer that stands for 0.
    """
    top, left, bottom, right = margins
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=zero)
    view: U8 = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[1:3], axis=(1, 2))
    windows = view[:, :: stride[0], :: stride[1]].transpose(0, 1, 2, 4, 5, 3)
    parts = np.split(windows, groups, axis=-1)
    filters = len(weight) // groups
    for o, taps in enumerate(weight):
        yield parts[o // filters], taps


def cut(x: NDArray[Any], axis: int, begin: int, end: int | None, step: int = 1) -> NDArray[Any]:
    """Return `x[begin:end:step]` along an axis."""
    return x[(*(slice(None),) * axis, slice(begin, end, step))]
