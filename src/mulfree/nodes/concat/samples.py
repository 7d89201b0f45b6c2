"""Random permutations of stacked channels."""

from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.concat import Concat
from mulfree.nodes.node import Node, Value
from mulfree.nodes.sampling import Draws


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, Value]:
    """Return a node and its output; it reads one value more than once at times."""
    source = values[-1]

    def grid(value: Value) -> tuple[object, ...]:
        return value.shape[1:], value.scale, value.zero_point

    fitting = [value for value in values if grid(value) == grid(source)]
    others = [draws.chosen(fitting) for _ in range(draws.number(0, 3))]
    channels = source.shape[0] + sum(other.shape[0] for other in others)
    output = draws.value((channels, *source.shape[1:]), source)
    node = Concat(
        **draws.names(source, output),
        others=tuple(other.name for other in others),
        order=draws.rng.permutation(channels).astype("int32"),
    )
    return node, output
