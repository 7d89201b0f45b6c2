"""Random lookup tables."""

from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.lut import Lut
from mulfree.nodes.node import Node, Value
from mulfree.nodes.sampling import Draws


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, Value]:
    """Return a node and its output."""
    source = values[-1]
    output = draws.value(source.shape)
    table = draws.array(0, 255, (source.shape[0], 256), "uint8")
    return Lut(**draws.names(source, output), table=table), output
