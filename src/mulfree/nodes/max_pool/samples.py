"""Random poolings."""

from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.max_pool import MaxPool
from mulfree.nodes.node import Node, Value
from mulfree.nodes.sampling import Draws


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, Value]:
    """Return a node and its output; a large window is computed by running maxima."""
    source = values[-1]
    channels, *sides = source.shape
    kernel, stride, padding = draws.window(sides, draws.chosen([4, 4, 30]), half=True)
    rows, columns = (
        (side + 2 * p - k) // s + 1
        for side, k, s, p in zip(sides, kernel, stride, padding, strict=True)
    )
    output = draws.value((channels, rows, columns), source)
    node = MaxPool(
        **draws.names(source, output),
        kernel=kernel,
        stride=stride,
        padding=padding,
        minimum=draws.array(0, 1, channels, "uint8"),
    )
    return node, output
