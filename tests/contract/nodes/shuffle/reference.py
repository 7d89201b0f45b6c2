from __future__ import annotations

from mulfree.nodes.arithmetic import U8, Made
from mulfree.nodes.node import Values

from . import Shuffle


def evaluate(node: Shuffle, values: Values, made: Made) -> U8:
    x = made[node.input]
    groups = x.reshape(*x.shape[:3], node.groups, -1)
    return groups.swapaxes(3, 4).reshape(x.shape)
