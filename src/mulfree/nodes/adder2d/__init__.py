"""The adder layer in integers: minus the sum of absolute differences, normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.fields import Tensor
from mulfree.nodes.node import Operations, Values
from mulfree.nodes.sliding import SlidingLayer
from mulfree.opcounts import OpCounts


@dataclass(frozen=True, kw_only=True, eq=False)
class Adder2d(SlidingLayer):
    """Adder layer: `acc = -sum |q_x - q_w|`. Input and weight share scale and zero point.

    Attributes:
        weight: `u8[O, Kh, Kw, C / g]`.
    """

    op = "adder2d"
    largest_product = 255

    weight: Annotated[NDArray[np.uint8], Tensor("uint8", 4)]

    def operations(self, values: Values) -> Operations:
        """Return two additions a tap (difference, accumulation) and the epilogue."""
        pairs = OpCounts(add=values[self.output].elements * self.taps)
        return {"int8": pairs, "int32": pairs + self.epilogue(values)}


NODE = Adder2d
