"""Bases of the vocabulary: a value, a node, and the checks that several kinds share.

Legend: C channels, H W rows and columns, O outputs (filters), Kh Kw window, g groups. A value holds
one `u8[H, W, C]` per image; an integer q stands for the real number `scale * (q - zero_point)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from mulfree.nodes.fields import (
    Integer,
    Integers,
    Scale,
    Since,
    Stored,
    Text,
    Texts,
    artifact_error,
)
from mulfree.opcounts import OpCounts

MAX_SIDE = 2**15
"""Largest number of rows, columns or channels, and largest window or padding."""
ACCUMULATOR_LIMIT = 2**31
"""Bound of the magnitude of a sum over taps."""

_SUM_LIMIT = 2**62

Shape = tuple[int, int, int]
Name = Annotated[str, Text()]
Names = Annotated[tuple[str, ...], Texts()]
ZeroPoint = Annotated[int, Integer(0, 255), Stored("zero")]
ClampMin = Annotated[int, Integer(0, 255), Stored("low")]
ClampMax = Annotated[int, Integer(0, 255), Stored("high")]
Int32 = Annotated[int, Integer(-(2**31), 2**31 - 1)]
Int64 = Annotated[int, Integer(-(2**63), 2**63 - 1)]
Shift = Annotated[int, Integer(1, 62)]
Size = Annotated[int, Integer(1, MAX_SIDE)]
Border = Annotated[int, Integer(0, MAX_SIDE)]
Sizes = Annotated[tuple[int, int], Integers(2, 1, MAX_SIDE)]
Borders = Annotated[tuple[int, int], Integers(2, 0, MAX_SIDE)]
Excess = Annotated[tuple[int, int], Integers(2, -MAX_SIDE, MAX_SIDE), Since(2)]


Operations = Mapping[str, OpCounts]
"""Counts by type of the operands: int8, int32 (also for 64-bit epilogues), fp32."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A feature map and the meaning of its integers.

    Attributes:
        name: Unique among the values.
        shape: C, H, W. In memory the channels come last.
        scale: Real size of one step; no part of the arithmetic except for the input.
        zero_point: The integer that stands for 0; padding is filled with it.
    """

    name: Name
    shape: Annotated[Shape, Integers(3, 1, MAX_SIDE)]
    scale: Annotated[float, Scale()]
    zero_point: ZeroPoint

    @property
    def elements(self) -> int:
        """Integers of one image."""
        return math.prod(self.shape)


Values = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One operation of the network.

    Attributes:
        name: Unique among the nodes; used in reports alone.
        input: Name of the value that is read.
        output: Name of the value that is made, or of the output for a node that `ends`.
    """

    op: ClassVar[str]
    # The output has the scale and zero point of all inputs.
    keeps_grid: ClassVar[bool] = False
    # The output is an output of the network in float32, not a value.
    ends: ClassVar[bool] = False

    name: Name
    input: Name
    output: Name

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all values that are read."""
        return (self.input,)

    def output_shape(self, values: Values) -> Shape:
        """Return C, H, W of the output.

        Raises:
            ArtifactError: A field does not fit the inputs or another field.
        """
        raise NotImplementedError

    def border(self, values: Values) -> tuple[int, int]:
        """Return the rows and columns of padding that native kernels need around `input`."""
        return 0, 0

    def operations(self, values: Values) -> Operations:
        """Return the operations for one image; copies and comparisons are none."""
        return {}

    def count(self, values: Values) -> OpCounts:
        """Return the sum of `operations`."""
        return sum(self.operations(values).values(), OpCounts())

    def work(self, values: Values) -> int:
        """Return an upper bound of all operations for one image: counted, read and written."""
        count = self.count(values)
        names = self.inputs if self.ends else (*self.inputs, self.output)
        return count.total + sum(values[name].elements for name in names)

    def require(self, holds: bool, name: str, requirement: str) -> None:
        """Raise an ArtifactError about the field `name` unless the requirement holds."""
        if not holds:
            raise artifact_error(f"{self.name}.{name}", requirement, getattr(self, name))


def multiplies(*factors: int) -> int:
    """Return the number of factors that are neither zero nor a power of two up to the sign."""
    return sum(factor & (factor - 1) != 0 for factor in map(abs, factors))


def check_epilogue(node: Any, bound: int) -> None:
    """Raise an ArtifactError unless the clamp has an element and 64 bits hold the sum.

    Args:
        node: A node with `clamp_min`, `clamp_max` and `shift`.
        bound: Bound of the magnitude of the sum before rounding.
    """
    least = f"be at least clamp_min ({node.clamp_min})"
    node.require(node.clamp_min <= node.clamp_max, "clamp_max", least)
    bound += 1 << (node.shift - 1)
    if bound >= _SUM_LIMIT:
        raise artifact_error(f"{node.name}.multiplier", "keep the sum below 2**62", bound)
