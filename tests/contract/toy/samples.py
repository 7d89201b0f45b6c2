from __future__ import annotations

from collections.abc import Sequence

from mulfree.nodes.node import Node, Value
from mulfree.nodes.sampling import Draws

from . import Gate


def sample(draws: Draws, values: Sequence[Value]) -> tuple[Node, Value]:
    source = values[-1]
    output = draws.value(source.shape, source)
    marks = draws.array(0, 1, source.shape[0], "uint8")
    return Gate(**draws.names(source, output), open=marks), output
