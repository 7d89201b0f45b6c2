from __future__ import annotations

import numpy as np

from mulfree.nodes.arithmetic import U8, Made
from mulfree.nodes.node import Value

from . import Gate


def evaluate(node: Gate, source: Value, made: Made) -> U8:
    return np.where(node.open != 0, made[node.input], np.uint8(source.zero_point))
