"""A toy operator in plain torch: convolution with weights rounded to powers of two."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mulfree.opcounts import OpCounts
from mulfree.operators.operator import Operator, taps
from mulfree.operators.window import ConvProblem, Pair


def rounded(weight: Tensor) -> Tensor:
    return weight.sign() * weight.abs().log2().round().exp2()


def shift2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Tensor:
    return nn.functional.conv2d(input, rounded(weight), bias, stride, padding, dilation, groups)


class Shift2d(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups

    def forward(self, input: Tensor) -> Tensor:
        geometry: Any = (self.stride, self.padding, self.dilation, self.groups)
        return shift2d(input, self.weight, self.bias, *geometry)


class ShiftLinear(nn.Module):
    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        linear = nn.Linear(in_features, out_features, bias)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, rounded(self.weight), self.bias)


def count(
    layer: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> OpCounts:
    return OpCounts(shift=1, add=1) * taps(layer, output_shape)


OPERATOR = Operator(
    name="shift2d",
    function=shift2d,
    reference=shift2d,
    conv=Shift2d,
    linear=ShiftLinear,
    count=count,
    count_example=(
        ConvProblem(batch=1, in_channels=1, out_channels=1, size=(2, 2), padding=(1, 1)),
        OpCounts(shift=4 * 9, add=4 * 9),
    ),
)
