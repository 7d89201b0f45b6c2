"""Random adder layers."""

from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.adder2d import Adder2d
from mulfree.nodes.node import Node, Value
from mulfree.nodes.sampling import Draws, sliding_layer


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, Value]:
    """Return a node and its output; the moments are of |x - w| of uniform bytes."""
    return sliding_layer(draws, values, Adder2d, (0, 255), (-85, 60))
