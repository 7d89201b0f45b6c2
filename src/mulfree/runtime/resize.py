"""Bilinear resizing of pixels to squares, in integers: exact on every processor.

A row or column `i` of `r` is the mean of `n` old ones with the weights of a triangle (bilinear with
antialiasing, corners not aligned). These are, for the old position `j` and with
`s = 2 max(n, r)`,

    t_ij = max(0, s - |(2 j + 1) r - (2 i + 1) n|)
    w_ij = 2048 t_ij / sum_j t_ij

rounded to integers with the sum 2048 by largest remainders. A pixel is

    (sum_y sum_x w_y w_x p[y, x] + 2^21) >> 22

which is below 2^30 before the shift.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 11
"""Weights of a row or column sum to two to the power of it."""
MAX_SIDE = 4096
"""Longest side before and after."""

# Images resized at a time: few enough for the cache.
_CHUNK = 16


@functools.lru_cache(maxsize=64)
def weights(old: int, new: int) -> NDArray[np.int64]:
    """Integer weights of `old` positions for each of `new`, `[new, old]`, each row of sum 2048.

    Remainders of equal size go to the first of their positions.
    """
    i, j = np.arange(new, dtype=np.int64)[:, None], np.arange(old, dtype=np.int64)
    triangle = np.maximum(0, 2 * max(old, new) - np.abs((2 * j + 1) * new - (2 * i + 1) * old))
    total = triangle.sum(1, keepdims=True)
    whole, rest = np.divmod(triangle << BITS, total)
    missing = (1 << BITS) - whole.sum(1, keepdims=True)
    order = np.argsort(-rest, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    found: NDArray[np.int64] = whole + (rank < missing)
    found.setflags(write=False)
    return found


def resize_reference(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Definition of `resize`, in 64-bit integers.

    Args:
        images: `[N, C, H, W]`.
        side: Height and width of the result.
    """
    rows, columns = (weights(old, side) for old in images.shape[2:])
    sums: NDArray[np.int64] = np.einsum("yh,nchw,xw->ncyx", rows, images.astype(np.int64), columns)
    return ((sums + (1 << (2 * BITS - 1))) >> (2 * BITS)).astype(np.uint8)


def resize(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize pixels to squares, the same integers as `resize_reference`.

    Products of matrices in floating point, which are exact: sums of the first are below 2^19 in
    float32, of the second below 2^30 in float64. Images of that size are returned as they are.

    Args:
        images: `[N, C, H, W]`.
        side: Height and width of the result.

    Returns:
        `[N, C, side, side]`.
    """
    count, channels, height, width = images.shape
    if (height, width) == (side, side):
        return images
    columns = np.ascontiguousarray(weights(width, side).T, np.float32)
    rows = weights(height, side).astype(np.float64)
    out = np.empty((count, channels, side, side), np.uint8)
    for start in range(0, count, _CHUNK):
        part: NDArray[Any] = images[start : start + _CHUNK].astype(np.float32) @ columns
        sums: NDArray[Any] = rows @ part.astype(np.float64)
        # Scaled by a power of two, which is exact too, and truncated by the conversion.
        sums += 2.0 ** (2 * BITS - 1)
        sums *= 2.0 ** (-2 * BITS)
        out[start : start + _CHUNK] = sums
    return out
