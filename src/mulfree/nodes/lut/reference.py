"""Definition of lookup tables."""

from __future__ import annotations

import numpy as np

from mulfree.nodes.arithmetic import U8, Made
from mulfree.nodes.lut import Lut
from mulfree.nodes.node import Values


def evaluate(node: Lut, values: Values, made: Made) -> U8:
    """Return the output, `[N, H, W, C]`."""
    output: U8 = node.table[np.arange(len(node.table)), made[node.input]]
    return output
