"""A map times one number for each channel, as in squeeze-and-excitation."""

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

LARGEST_PRODUCT = 255 * 255
"""Bound of the magnitude of `(q_input - zero_input) * (q_gate - zero_gate)`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gate(Node):
    """Product of a map and a gate with one number for each channel, then the epilogue.

    `v = (q_input - zero_input) * (q_gate - zero_gate) * multiplier + offset`, then shift and clamp.

    Attributes:
        gate: Name of the value `[C, 1, 1]`.
        multiplier: 32 bits.
        offset: 64 bits.
        shift: 1..62.
        clamp_min: Least output.
        clamp_max: Greatest output.
    """

    op = "gate"

    gate: Name
    multiplier: Int32
    offset: Int64
    shift: Shift
    clamp_min: ClampMin
    clamp_max: ClampMax

    @property
    def inputs(self) -> tuple[str, ...]:
        """The map and the gate."""
        return self.input, self.gate

    def output_shape(self, values: Values) -> Shape:
        """Return the shape of the map."""
        shape, gate = values[self.input].shape, values[self.gate].shape
        if gate != (shape[0], 1, 1):
            raise artifact_error(f"{self.name}.gate", f"have the shape {[shape[0], 1, 1]}", gate)
        check_epilogue(self, LARGEST_PRODUCT * abs(self.multiplier) + abs(self.offset))
        return shape

    def operations(self, values: Values) -> Operations:
        """Return a product of integers per output, then one factor and one sum.

        The zero points are part of the constants of a channel.
        """
        outputs = values[self.output].elements
        epilogue = OpCounts(mul=outputs * multiplies(self.multiplier), add=outputs)
        return {"int8": OpCounts(mul=outputs), "int32": epilogue}


NODE = Gate
