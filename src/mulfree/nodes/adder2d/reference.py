"""Definition of the adder layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.adder2d import Adder2d
from mulfree.nodes.arithmetic import U8, Made, normalised, per_filter
from mulfree.nodes.node import Values
from mulfree.nodes.sliding import Margins, Pair


def evaluate(node: Adder2d, values: Values, made: Made) -> U8:
    """Return the output, `[N, h, w, O]`."""
    geometry = node.stride, node.margins, node.groups
    sums = accumulator(made[node.input], node.weight, *geometry, zero=values[node.input].zero_point)
    return normalised(node, sums, made)


def accumulator(
    x: U8, weight: U8, stride: Pair, margins: Margins, groups: int, *, zero: int
) -> NDArray[np.int32]:
    """Return `-sum |q_x - q_w|` over the taps, `[N, h, w, O]`; arguments as in `per_filter`."""
    sums = [
        -np.abs(windows.astype(np.int32) - taps).sum(axis=(3, 4, 5), dtype=np.int32)
        for windows, taps in per_filter(x, weight.astype(np.int32), stride, margins, groups, zero)
    ]
    return np.stack(sums, axis=-1)
