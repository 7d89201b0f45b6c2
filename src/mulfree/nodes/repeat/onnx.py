"""ONNX nodes of nearest-neighbour upsampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mulfree.nodes.emitting import Made
from mulfree.nodes.node import Values
from mulfree.nodes.repeat import Repeat

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Repeat, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the output."""
    source = values[node.input]
    x = made[node.input]
    for axis, side in ((2, source.shape[1]), (3, source.shape[2])):
        index = np.arange(side, dtype=np.int64).repeat(node.factor)
        x = add("Gather", x, add.constant(index), axis=axis)
    return x
