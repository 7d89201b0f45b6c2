"""Random sums of two values."""

from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.add import Add
from mulfree.nodes.node import Node, Value
from mulfree.nodes.sampling import Draws


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, Value]:
    """Return a node and its output; both operands are one value at times."""
    source = values[-1]
    other = draws.chosen([value.name for value in values if value.shape == source.shape])
    output = draws.value(source.shape)
    factors = draws.epilogue(127, 100, 255)
    factor = draws.number(-abs(factors["multiplier"]), 3)
    names = draws.names(source, output)
    return Add(**names, other=other, other_multiplier=factor, **factors), output
