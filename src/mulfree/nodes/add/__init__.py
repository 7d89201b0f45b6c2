"""Sum of two values."""

from __future__ import annotations

from dataclasses import dataclass

from mulfree.nodes.fields import artifact_error
from mulfree.nodes.node import (
    ClampMax,
    ClampMin,
    Int32,
    Int64,
    Name,
    Node,
    Operations,
    Shape,
    Shift,
    Values,
    check_epilogue,
    multiplies,
)
from mulfree.opcounts import OpCounts


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """Sum of two values of one shape, then the epilogue.

    `v = q_input * multiplier + q_other * other_multiplier + offset`, then shift and clamp.

    Attributes:
        other: Name of the second value.
        multiplier: Factor of `input`, 32 bits.
        other_multiplier: Factor of `other`, 32 bits.
        offset: 64 bits.
        shift: 1..62.
        clamp_min: Least output.
        clamp_max: Greatest output.
    """

    op = "add"

    other: Name
    multiplier: Int32
    other_multiplier: Int32
    offset: Int64
    shift: Shift
    clamp_min: ClampMin
    clamp_max: ClampMax

    @property
    def inputs(self) -> tuple[str, ...]:
        """Both values."""
        return self.input, self.other

    def output_shape(self, values: Values) -> Shape:
        """Return the shape of both inputs."""
        shape, other = values[self.input].shape, values[self.other].shape
        if other != shape:
            raise artifact_error(f"{self.name}.other", f"have the shape {list(shape)}", other)
        factors = abs(self.multiplier) + abs(self.other_multiplier)
        check_epilogue(self, 255 * factors + abs(self.offset))
        return shape

    def operations(self, values: Values) -> Operations:
        """Return two factors and two sums per output."""
        outputs = values[self.output].elements
        factors = multiplies(self.multiplier, self.other_multiplier)
        return {"int32": OpCounts(mul=outputs * factors, add=outputs * 2)}


NODE = Add
