"""A lookup table for each channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.fields import Tensor
from mulfree.nodes.node import Node, Operations, Shape, Values
from mulfree.opcounts import OpCounts


@dataclass(frozen=True, kw_only=True, eq=False)
class Lut(Node):
    """Lookup table: `q_out = table[c][q_in]`.

    Attributes:
        table: `u8[C, 256]`.
    """

    op = "lut"

    table: Annotated[NDArray[np.uint8], Tensor("uint8", 2)]

    def output_shape(self, values: Values) -> Shape:
        """Return the shape of the input."""
        shape = values[self.input].shape
        self.require(self.table.shape == (shape[0], 256), "table", f"be [{shape[0]}, 256]")
        return shape

    def operations(self, values: Values) -> Operations:
        """Return a lookup an element."""
        return {"int8": OpCounts(lookup=values[self.input].elements)}


NODE = Lut
