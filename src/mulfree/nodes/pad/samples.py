"""Random borders."""

from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.node import Node, Value
from mulfree.nodes.pad import Pad
from mulfree.nodes.sampling import Draws


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, Value]:
    """Return a node and its output."""
    source = values[-1]
    channels, rows, columns = source.shape
    left, right, top, bottom = (draws.number(0, 3) for _ in range(4))
    output = draws.value((channels, rows + top + bottom, columns + left + right), source)
    names = draws.names(source, output)
    return Pad(**names, left=left, right=right, top=top, bottom=bottom), output
