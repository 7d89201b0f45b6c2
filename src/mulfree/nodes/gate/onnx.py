"""ONNX nodes of the product of a map and a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mulfree.nodes.emitting import Made, requantised, scaled
from mulfree.nodes.gate import Gate
from mulfree.nodes.node import Values

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Gate, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the output."""
    x = _centred(add, made[node.input], values[node.input].zero_point, 1)
    gate = _centred(add, made[node.gate], values[node.gate].zero_point, node.multiplier)
    v = add("Mul", x, gate)
    return requantised(add, v, node.offset, node.shift, node.clamp_min, node.clamp_max)


def _centred(add: GraphBuilder, q: str, zero_point: int, factor: int) -> str:
    """Add `(q - zero_point) * factor` in 64 bits."""
    product = scaled(add, q, factor)
    return add("Sub", product, add.constant(np.array(zero_point * factor, np.int64)))
