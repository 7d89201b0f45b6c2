"""Definition of average pooling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.arithmetic import U8, Made, cut, requantise
from mulfree.nodes.mean import Mean
from mulfree.nodes.node import Values
from mulfree.nodes.sliding import Pair


def evaluate(node: Mean, values: Values, made: Made) -> U8:
    """Return the output, `[N, h, w, C]`."""
    v = _sums(made[node.input], node.kernel, node.stride) * node.multiplier + node.offset
    return requantise(v, node.shift, node.clamp_min, node.clamp_max)


def _sums(x: U8, kernel: Pair, stride: Pair) -> NDArray[np.int64]:
    """Return the sum of each window as differences of running sums: any window is as fast."""
    total = x.astype(np.int64)
    for axis, size, step in zip((1, 2), kernel, stride, strict=True):
        border = [(1, 0) if index == axis else (0, 0) for index in range(4)]
        running = np.pad(total.cumsum(axis), border)
        total = cut(running, axis, size, None, step) - cut(running, axis, 0, -size, step)
    return total
