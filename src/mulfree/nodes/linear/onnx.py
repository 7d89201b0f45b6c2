"""ONNX nodes of the classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from mulfree.nodes.emitting import RAISED_ZERO, Made, raised
from mulfree.nodes.linear import Linear
from mulfree.nodes.node import Values

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Linear, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the logits."""
    channels, height, width = values[node.input].shape
    weight = node.weight.reshape(-1, height, width, channels)
    channels_first = weight.transpose(3, 1, 2, 0).reshape(-1, len(weight))
    sums = add(
        "MatMulInteger",
        add("Flatten", made[node.input]),
        add.constant(raised(channels_first)),
        add.constant(np.array(0, np.uint8)),
        add.constant(np.array(RAISED_ZERO, np.uint8)),
    )
    scaled = add("Mul", add("Cast", sums, to=TensorProto.FLOAT), add.constant(node.scale))
    return add("Add", scaled, add.constant(node.bias))
