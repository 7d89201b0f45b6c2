"""Definition of padding."""

from __future__ import annotations

import numpy as np

from mulfree.nodes.arithmetic import U8, Made
from mulfree.nodes.node import Values
from mulfree.nodes.pad import Pad


def evaluate(node: Pad, values: Values, made: Made) -> U8:
    """Return the output, `[N, h, w, C]`."""
    border = ((0, 0), (node.top, node.bottom), (node.left, node.right), (0, 0))
    return np.pad(made[node.input], border, constant_values=values[node.input].zero_point)
