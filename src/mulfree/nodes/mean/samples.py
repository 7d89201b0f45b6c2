"""Random average poolings."""

from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.mean import Mean
from mulfree.nodes.node import Node, Value
from mulfree.nodes.sampling import Draws


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, Value]:
    """Return a node and its output; the window is the whole map at times."""
    source = values[-1]
    channels, height, width = source.shape
    kernel = (draws.number(1, height), draws.number(1, width))
    if draws.number(0, 3) == 0:
        kernel = (height, width)
    stride = draws.pair(1, 3)
    output = draws.value(
        (channels, (height - kernel[0]) // stride[0] + 1, (width - kernel[1]) // stride[1] + 1)
    )
    taps = kernel[0] * kernel[1]
    factors = draws.epilogue(127 * taps, 74 * taps**0.5, 255 * taps)
    return Mean(**draws.names(source, output), kernel=kernel, stride=stride, **factors), output
