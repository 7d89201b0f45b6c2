"""The multiplying baseline: torch's own convolution behind the operator protocol."""

from __future__ import annotations

import torch
from torch import nn

from mulfree.operators.conv2d.cost import count
from mulfree.operators.operator import Operator

OPERATOR = Operator(
    name="conv2d",
    function=torch.nn.functional.conv2d,
    reference=torch.nn.functional.conv2d,
    conv=nn.Conv2d,
    linear=nn.Linear,
    count=count,
)
