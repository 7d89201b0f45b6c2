"""ONNX nodes of lookup tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mulfree.nodes.emitting import Made, looked_up
from mulfree.nodes.lut import Lut
from mulfree.nodes.node import Values

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Lut, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the output."""
    return looked_up(add, made[node.input], node.table)
