"""Random products of a map and a gate."""

from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.gate import LARGEST_PRODUCT, Gate
from mulfree.nodes.node import Node, Value
from mulfree.nodes.sampling import Draws


def operands(draws: Draws) -> list[Value]:
    """Return a map, then its gate."""
    shape = draws.shape()
    return [draws.value(shape), draws.value((shape[0], 1, 1))]


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, Value]:
    """Return a node and its output."""
    source, gate = values
    output = draws.value(source.shape)
    centres = (127 - source.zero_point) * (127 - gate.zero_point)
    factors = draws.epilogue(centres, 10_000, LARGEST_PRODUCT)
    return Gate(**draws.names(source, output), gate=gate.name, **factors), output
