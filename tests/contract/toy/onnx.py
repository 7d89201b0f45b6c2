from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mulfree.nodes.emitting import Made
from mulfree.nodes.node import Values

from . import Gate

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Gate, values: Values, made: Made) -> str:
    marks = add.constant((node.open != 0)[:, None, None])
    return add(
        "Where",
        marks,
        made[node.input],
        add.constant(np.array(values[node.input].zero_point, np.uint8)),
    )
