from __future__ import annotations

import numpy as np

from mulfree.nodes.arithmetic import U8, Made
from mulfree.nodes.node import Values

from . import Gate


def evaluate(node: Gate, values: Values, made: Made) -> U8:
    return np.where(node.open != 0, made[node.input], np.uint8(values[node.input].zero_point))
