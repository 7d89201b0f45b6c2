"""The adder operator: minus the sum of absolute differences in place of a convolution."""

from __future__ import annotations

from functools import partial

from mulfree.opcounts import OpCounts
from mulfree.operators.adder2d.functional import adder2d as adder2d
from mulfree.operators.adder2d.functional import adder_linear as adder_linear
from mulfree.operators.adder2d.layer import Adder2d as Adder2d
from mulfree.operators.adder2d.layer import AdderLinear as AdderLinear
from mulfree.operators.operator import Operator, per_tap
from mulfree.operators.window import ConvProblem

OPERATOR = Operator(
    name="adder2d",
    function=adder2d,
    reference=partial(adder2d, backend="reference"),
    conv=Adder2d,
    linear=AdderLinear,
    # The difference and its accumulation.
    count=per_tap(OpCounts(add=2)),
    # Eight outputs of nine taps each, of one channel in two; padding takes part.
    count_example=(
        ConvProblem(batch=1, in_channels=2, out_channels=2, groups=2, size=(2, 2)),
        OpCounts(add=2 * 8 * 9),
    ),
)
