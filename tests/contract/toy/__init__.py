"""A node as CONTRIBUTING adds one: a folder, and a line that the tests add to `NODES`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.fields import Tensor
from mulfree.nodes.node import Node, Shape, Values


@dataclass(frozen=True, kw_only=True, eq=False)
class Gate(Node):
    """Channels that are open pass; the others become the zero point: `q_out = q or zero`."""

    op = "toy"
    keeps_grid = True

    open: Annotated[NDArray[np.uint8], Tensor("uint8", 1)]

    def output_shape(self, values: Values) -> Shape:
        shape = values[self.input].shape
        self.require(self.open.shape == (shape[0],), "open", f"have {shape[0]} elements")
        return shape


NODE = Gate
