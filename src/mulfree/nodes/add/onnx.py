"""ONNX nodes of the sum of two values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mulfree.nodes.add import Add
from mulfree.nodes.emitting import Made, requantised, scaled
from mulfree.nodes.node import Values

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Add, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the output."""
    first = scaled(add, made[node.input], node.multiplier)
    v = add("Add", first, scaled(add, made[node.other], node.other_multiplier))
    return requantised(add, v, node.offset, node.shift, node.clamp_min, node.clamp_max)
