"""ONNX nodes of the convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mulfree.nodes.conv2d import Conv2d
from mulfree.nodes.emitting import RAISED_ZERO, Made, normalised, raised
from mulfree.nodes.node import Values

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Conv2d, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the output."""
    x = add.padded(made[node.input], node.margins, np.uint8(values[node.input].zero_point))
    sums = add(
        "ConvInteger",
        x,
        add.constant(raised(node.weight.transpose(0, 3, 1, 2))),
        add.constant(np.array(0, np.uint8)),
        add.constant(np.array(RAISED_ZERO, np.uint8)),
        strides=node.stride,
        group=node.groups,
    )
    return normalised(add, node, sums, made)
