"""Definition of the sum of two values."""

from __future__ import annotations

import numpy as np

from mulfree.nodes.add import Add
from mulfree.nodes.arithmetic import U8, Made, requantise
from mulfree.nodes.node import Values


def evaluate(node: Add, values: Values, made: Made) -> U8:
    """Return the output, `[N, H, W, C]`."""
    v = made[node.input].astype(np.int64) * node.multiplier + node.offset
    v += made[node.other].astype(np.int64) * node.other_multiplier
    return requantise(v, node.shift, node.clamp_min, node.clamp_max)
