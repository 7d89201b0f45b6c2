"""The multiplying baseline: torch's convolution as an operator."""

from __future__ import annotations

import torch
from torch import nn

from mulfree.opcounts import OpCounts
from mulfree.operators.operator import Operator, per_tap
from mulfree.operators.window import ConvProblem

OPERATOR = Operator(
    name="conv2d",
    function=torch.nn.functional.conv2d,
    reference=torch.nn.functional.conv2d,
    conv=nn.Conv2d,
    linear=nn.Linear,
    count=per_tap(OpCounts(mul=1, add=1)),
    # Eight outputs of nine taps each, of one channel in two; padding takes part.
    count_example=(
        ConvProblem(batch=1, in_channels=2, out_channels=2, groups=2, size=(2, 2)),
        OpCounts(mul=8 * 9, add=8 * 9),
    ),
)
