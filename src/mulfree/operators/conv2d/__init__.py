"""The multiplying baseline: torch's convolution as an operator."""

from __future__ import annotations

import torch
from torch import nn

from mulfree.opcounts import OpCounts
from mulfree.operators.conv2d.cost import count
from mulfree.operators.operator import Operator
from mulfree.operators.window import ConvProblem

OPERATOR = Operator(
    name="conv2d",
    function=torch.nn.functional.conv2d,
    reference=torch.nn.functional.conv2d,
    conv=nn.Conv2d,
    linear=nn.Linear,
    count=count,
    # Four outputs of nine taps each; padding takes part.
    count_example=(
        ConvProblem(batch=1, in_channels=1, out_channels=1, size=(2, 2)),
        OpCounts(mul=4 * 9, add=4 * 9),
    ),
)
