"""Channels of several values in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.fields import Tensor, artifact_error
from mulfree.nodes.node import Names, Node, Shape, Values


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Node):
    """Values side by side: their channels stacked in the order of `inputs`, then permuted.

    Attributes:
        others: Names of the values after `input`, with its rows, columns, scale and zero point.
        order: `i32[C]`, a permutation: channel c of the output is stacked channel `order[c]`.
    """

    op = "concat"
    keeps_grid = True

    others: Names
    order: Annotated[NDArray[np.int32], Tensor("int32", 1)]

    @property
    def inputs(self) -> tuple[str, ...]:
        """All values in the order of stacking."""
        return self.input, *self.others

    def output_shape(self, values: Values) -> Shape:
        """Return `[C, H, W]` with the channels of all values."""
        _, *sides = values[self.input].shape
        for other in self.others:
            if values[other].shape[1:] != tuple(sides):
                raise artifact_error(
                    f"{self.name}.others", f"have rows and columns {sides}", values[other].shape
                )
        channels = sum(values[name].shape[0] for name in self.inputs)
        self.require(
            np.array_equal(np.sort(self.order), np.arange(channels)),
            "order",
            f"be a permutation of 0..{channels - 1}",
        )
        return channels, sides[0], sides[1]


NODE = Concat
