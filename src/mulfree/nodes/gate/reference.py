"""Definition of the product of a map and a gate."""

from __future__ import annotations

import numpy as np

from mulfree.nodes.arithmetic import U8, Made, requantise
from mulfree.nodes.gate import Gate
from mulfree.nodes.node import Values


def evaluate(node: Gate, values: Values, made: Made) -> U8:
    """Return the output, `[N, H, W, C]`."""
    x, gate = (
        made[name].astype(np.int64) - values[name].zero_point for name in (node.input, node.gate)
    )
    return requantise(
        x * gate * node.multiplier + node.offset, node.shift, node.clamp_min, node.clamp_max
    )
