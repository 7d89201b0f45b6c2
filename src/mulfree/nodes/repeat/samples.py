"""Random upsamplings."""

from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.node import Node, Value
from mulfree.nodes.repeat import Repeat
from mulfree.nodes.sampling import Draws


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, Value]:
    """Return a node and its output."""
    source, factor = values[-1], draws.number(1, 3)
    channels, rows, columns = source.shape
    output = draws.value((channels, rows * factor, columns * factor), source)
    return Repeat(**draws.names(source, output), factor=factor), output
