from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mulfree import cost
from mulfree.opcounts import OpCounts

MAP = 4 * 6 * 6


class SqueezeExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(4, 2, 1)
        self.expand = nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.silu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(gate)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def count(function: Callable[[Tensor], Any]) -> cost.Profile:
    return cost.count(nn.Sequential(Function(function)), (4, 6, 6))


def test_squeeze_and_excitation_by_hand() -> None:
    profile = cost.count(SqueezeExcitation(), (4, 6, 6))
    assert [(layer.name, layer.kind, layer.operator) for layer in profile.layers] == [
        ("reduce", "Conv2d", "conv2d"),
        ("", "silu", None),
        ("expand", "Conv2d", "conv2d"),
        ("", "sigmoid", None),
        ("", "mul", None),
    ]
    assert [layer.cost for layer in profile.layers] == [
        OpCounts(mul=8, add=8),
        OpCounts(lookup=2),
        OpCounts(mul=8, add=8),
        OpCounts(lookup=4),
        OpCounts(mul=MAP),
    ]
    gate = profile.layers[-1]
    assert (gate.input_shape, gate.output_shape) == ((1, 4, 6, 6), (1, 4, 6, 6))
    assert (gate.params, gate.traffic_bytes, gate.counted) == (0, 4 * (MAP + 4 + MAP), True)
    assert gate.energy == pytest.approx(3.7 * MAP)
    assert (profile.uncounted, profile.total.params) == ((), 10 + 12)
    text = cost.to_text(profile)
    assert "| 1 x sigmoid |" in text
    assert "#lookup" in text


@pytest.mark.parametrize(
    "function",
    [
        F.silu,
        lambda x: F.silu(x, inplace=True),
        nn.SiLU(),
        torch.sigmoid,
        Tensor.sigmoid_,
        nn.Sigmoid(),
        F.hardswish,
        nn.Hardswish(inplace=True),
        F.hardsigmoid,
        torch.tanh,
        F.gelu,
        F.leaky_relu,
        F.logsigmoid,
        F.mish,
        F.softplus,
        F.elu,
    ],
)
def test_a_nonlinear_function_is_a_lookup_for_every_output(
    function: Callable[[Tensor], Any],
) -> None:
    assert count(function).total.cost == OpCounts(lookup=MAP)
    assert count(function).uncounted == ()


def test_functions_in_sums_and_products() -> None:
    assert count(lambda x: x * torch.sigmoid(x)).total.cost == OpCounts(lookup=MAP, mul=MAP)
    assert count(lambda x: x.mul_(x[:, :1])).total.cost == OpCounts(mul=MAP)


@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        F.relu6,
        lambda x: 2 * x + x,
        lambda x: x * torch.tensor(2.0),
        lambda x: F.pad(x, (0, 1, 0, 1)),
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: F.adaptive_avg_pool2d(x, 1),
    ],
)
def test_other_functions_are_none(function: Callable[[Tensor], Any]) -> None:
    assert count(function).layers == ()


def test_a_factor_that_may_be_a_parameter_is_listed_and_not_counted() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    profile = cost.count(Scaled(), (4, 6, 6))
    assert profile.total.cost == OpCounts()
    assert profile.uncounted == ("",)


def test_padding_before_a_layer_takes_part_and_depthwise_layers_have_one_channel() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(4, 4, 3, stride=2, groups=4, bias=False)
            self.grouped = nn.Conv2d(4, 8, 1, groups=2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.grouped(self.depthwise(F.pad(x, (0, 1, 0, 1))))
            return made

    profile = cost.count(Same(), (4, 6, 6))
    assert [layer.cost.mul for layer in profile.layers] == [4 * 9 * 9, 8 * 9 * 2]
    assert [layer.input_shape for layer in profile.layers] == [(1, 4, 7, 7), (1, 4, 3, 3)]


def test_functions_inside_of_a_layer_of_torch_are_its_own() -> None:
    profile = cost.count(nn.LSTM(8, 8), (3, 8))
    assert profile.total.cost == OpCounts()
    assert profile.uncounted == ("",)
