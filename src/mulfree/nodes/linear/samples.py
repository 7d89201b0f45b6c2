"""Random classifiers."""

from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.linear import Linear
from mulfree.nodes.node import Node, Value
from mulfree.nodes.sampling import Draws


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, None]:
    """Return a node; an output of the network is no value."""
    source, outputs = values[-1], draws.filters(1)
    node = Linear(
        name="fc",
        input=source.name,
        weight=draws.array(-128, 127, (outputs, source.elements), "int8"),
        scale=draws.rng.normal(size=outputs).astype("float32"),
        bias=draws.rng.normal(size=outputs).astype("float32"),
    )
    return node, None
