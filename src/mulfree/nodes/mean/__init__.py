"""Average pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mulfree.nodes.node import (
    ACCUMULATOR_LIMIT,
    ClampMax,
    ClampMin,
    Int32,
    Int64,
    Node,
    Operations,
    Shape,
    Shift,
    Sizes,
    Values,
    check_epilogue,
    multiplies,
)
from mulfree.nodes.sliding import positions
from mulfree.opcounts import OpCounts


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Node):
    """Sum of each window, without padding, then the epilogue with scalars.

    `v = acc * multiplier + offset`, `q_out = clamp((v + (1 << (shift - 1))) >> shift, clamp_min,
    clamp_max)`; the multiplier includes the divisor.

    Attributes:
        kernel: Kh, Kw; H, W for the mean of the whole map.
        stride: Rows, columns.
        multiplier: 32 bits.
        offset: 64 bits.
        shift: 1..62.
        clamp_min: Least output.
        clamp_max: Greatest output.
    """

    op = "mean"

    kernel: Sizes
    stride: Sizes
    multiplier: Int32
    offset: Int64
    shift: Shift
    clamp_min: ClampMin
    clamp_max: ClampMax

    def output_shape(self, values: Values) -> Shape:
        """Return `[C, (H - Kh) / stride + 1, ...]`."""
        largest = math.prod(self.kernel) * 255
        self.require(largest < ACCUMULATOR_LIMIT, "kernel", "have fewer than 2**31 / 255 taps")
        check_epilogue(self, largest * abs(self.multiplier) + abs(self.offset))
        channels = values[self.input].shape[0]
        return channels, *positions(self, values, self.kernel, self.stride, (0, 0))

    def operations(self, values: Values) -> Operations:
        """Return an addition a tap, then one factor and one sum per output."""
        outputs = values[self.output].elements
        count = OpCounts(
            mul=outputs * multiplies(self.multiplier),
            add=outputs * (math.prod(self.kernel) + 1),
        )
        return {"int32": count}


NODE = Mean
