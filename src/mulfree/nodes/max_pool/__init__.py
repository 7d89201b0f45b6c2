"""Max pooling; min pooling in channels with a negative normalisation factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.fields import Tensor
from mulfree.nodes.node import Borders, Node, Shape, Sizes, Values
from mulfree.nodes.sliding import positions


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Node):
    """Maximum of each window, or the minimum in marked channels. Padding never wins.

    A negative normalisation factor before the pooling reverses the order of the integers.

    Attributes:
        kernel: Kh, Kw.
        stride: Rows, columns.
        padding: Rows above and below, columns left and right, at most half of the kernel's.
        minimum: `u8[C]`, 1 for channels that take the minimum, 0 for the others.
    """

    op = "max_pool"
    keeps_grid = True

    kernel: Sizes
    stride: Sizes
    padding: Borders
    minimum: Annotated[NDArray[np.uint8], Tensor("uint8", 1)]

    def output_shape(self, values: Values) -> Shape:
        """Return `[C, (H + 2 p - Kh) / stride + 1, ...]`."""
        channels = values[self.input].shape[0]
        self.require(
            all(2 * border <= side for border, side in zip(self.padding, self.kernel, strict=True)),
            "padding",
            f"be at most half of the kernel {list(self.kernel)}",
        )
        self.require(
            self.minimum.shape == (channels,) and bool((self.minimum <= 1).all()),
            "minimum",
            f"have {channels} elements 0 or 1",
        )
        return channels, *positions(self, values, self.kernel, self.stride, self.padding)

    def work(self, values: Values) -> int:
        """Add a comparison per element, with the padding, for each halving of the window."""
        channels, *sides = values[self.input].shape
        rows, columns = (a + 2 * b for a, b in zip(sides, self.padding, strict=True))
        halvings = sum((side - 1).bit_length() for side in self.kernel)
        return super().work(values) + channels * rows * columns * halvings


NODE = MaxPool
