"""ONNX nodes of stacked and permuted channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mulfree.nodes.concat import Concat
from mulfree.nodes.emitting import Made
from mulfree.nodes.node import Values

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Concat, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the output."""
    stacked = add("Concat", *(made[name] for name in node.inputs), axis=1)
    return add("Gather", stacked, add.constant(node.order), axis=1)
