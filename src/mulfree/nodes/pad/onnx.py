"""ONNX nodes of padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mulfree.nodes.emitting import Made
from mulfree.nodes.node import Values
from mulfree.nodes.pad import Pad

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Pad, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the output."""
    border = (node.top, node.left, node.bottom, node.right)
    return add.padded(made[node.input], border, np.uint8(values[node.input].zero_point))
