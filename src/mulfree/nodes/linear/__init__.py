"""The classifier: logits in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.fields import Tensor
from mulfree.nodes.node import (
    ACCUMULATOR_LIMIT,
    MAX_SIDE,
    Name,
    Node,
    Operations,
    Shape,
    Values,
)
from mulfree.opcounts import OpCounts


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Node):
    """Classifier of a map in the order H, W, C.

    `logits[o] = float32(acc[o]) * scale[o] + bias[o]`, rounded after each of the two, where
    `acc = sum q_x * q_w`; `-zero * sum q_w` is part of the bias.

    Attributes:
        weight: `i8[O, H * W * C]`.
        scale: `f32[O]`.
        bias: `f32[O]`.
    """

    op = "linear"
    ends = True

    output: Name = "logits"
    weight: Annotated[NDArray[np.int8], Tensor("int8", 2)]
    scale: Annotated[NDArray[np.float32], Tensor("float32", 1)]
    bias: Annotated[NDArray[np.float32], Tensor("float32", 1)]

    def output_shape(self, values: Values) -> Shape:
        """Return `[O, 1, 1]`."""
        taps = values[self.input].elements
        self.require(
            self.weight.shape[1] == taps and 1 <= len(self.weight) <= MAX_SIDE,
            "weight",
            f"have shape [1..{MAX_SIDE}, {taps}]",
        )
        filters = len(self.weight)
        for name in ("scale", "bias"):
            self.require(getattr(self, name).shape == (filters,), name, f"have {filters} elements")
        self.require(
            taps * 255 * 128 < ACCUMULATOR_LIMIT, "weight", "have fewer than 2**31 / 32640 taps"
        )
        return filters, 1, 1

    def operations(self, values: Values) -> Operations:
        """Return a multiplication and an addition a tap and, in float32, an output."""
        pairs, outputs = self.weight.size, len(self.weight)
        return {
            "int8": OpCounts(mul=pairs),
            "int32": OpCounts(add=pairs),
            "fp32": OpCounts(mul=outputs, add=outputs),
        }


NODE = Linear
