from __future__ import annotations

import pytest

from mulfree.opcounts import OpCounts
from mulfree.operators import get_operator
from mulfree.operators.window import SAMPLES, ConvProblem


@pytest.mark.parametrize("problem", SAMPLES, ids=str)
@pytest.mark.parametrize(
    ("name", "each"), [("conv2d", OpCounts(mul=1, add=1)), ("adder2d", OpCounts(add=2))]
)
def test_operations_of_every_pair_of_input_and_weight(
    name: str, each: OpCounts, problem: ConvProblem
) -> None:
    n, filters, rows, columns = problem.output_shape
    pairs = n * filters * rows * columns * problem.weight_shape[1]
    pairs *= problem.kernel[0] * problem.kernel[1]
    operator = get_operator(name)
    layer = operator.conv(
        problem.in_channels, problem.out_channels, problem.kernel, *problem.sliding
    )
    assert operator.count(layer, problem.input_shape, problem.output_shape) == each * pairs
