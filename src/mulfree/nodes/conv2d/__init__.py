"""The convolution in integers, normalised."""

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
class Conv2d(SlidingLayer):
    """Convolution: `acc = sum q_x * q_w`; `-zero * sum q_w` is part of the offset.

    Attributes:
        weight: `i8[O, Kh, Kw, C / g]`.
    """

    op = "conv2d"
    largest_product = 255 * 128

    weight: Annotated[NDArray[np.int8], Tensor("int8", 4)]

    def operations(self, values: Values) -> Operations:
        """Return a multiplication and an addition a tap and the epilogue."""
        pairs = values[self.output].elements * self.taps
        return {"int8": OpCounts(mul=pairs), "int32": OpCounts(add=pairs) + self.epilogue(values)}


NODE = Conv2d
