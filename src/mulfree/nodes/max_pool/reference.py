"""Definition of max pooling."""

from __future__ import annotations

import numpy as np

from mulfree.nodes.arithmetic import U8, Made, cut
from mulfree.nodes.max_pool import MaxPool
from mulfree.nodes.node import Values


def evaluate(node: MaxPool, values: Values, made: Made) -> U8:
    """Return the output, `[N, h, w, C]`."""
    # min(x) = 255 - max(255 - x), and 255 - x = x ^ 255.
    flips = np.where(node.minimum == 1, 255, 0).astype(np.uint8)
    largest = made[node.input] ^ flips
    for axis, size, stride, border in zip(
        (1, 2), node.kernel, node.stride, node.padding, strict=True
    ):
        # A window that reaches further than a whole map beyond the edge sees the same elements.
        spare = max(0, border - largest.shape[axis])
        size, border = size - 2 * spare, border - spare
        largest = np.pad(largest, [(border, border) if i == axis else (0, 0) for i in range(4)])
        # The maximum of 2 n rows is the larger of two maxima of n.
        reach = 1
        while reach < size:
            step = min(reach, size - reach)
            largest = np.maximum(cut(largest, axis, 0, -step), cut(largest, axis, step, None))
            reach += step
        largest = cut(largest, axis, 0, None, stride)
    output: U8 = largest ^ flips
    return output
