from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mulfree.nn import Adder2d, AdderLinear
from mulfree.training import PAnnealing, PAnnealingConfig


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Adder2d(1, 2, 3)
        self.linear = AdderLinear(8, 2, gradient="sign")


def make(**values: Any) -> tuple[Network, PAnnealing]:
    model = Network()
    return model, PAnnealing(model, PAnnealingConfig(**values), total_steps=100)


def test_the_norm_falls_linearly_and_stays_at_one() -> None:
    model, annealing = make(start=2.0, fraction=0.5)
    seen = []
    for step in (0, 10, 25, 49, 50, 99):
        annealing.apply(step)
        seen.append((model.conv.norm, model.conv.gradient, model.linear.gradient))
    assert seen == [
        (2.0, "l2", "l2"),
        (1.8, "l1.8", "l1.8"),
        (1.5, "l1.5", "l1.5"),
        (1.02, "l1.02", "l1.02"),
        (1.0, "adder", "sign"),
        (1.0, "adder", "sign"),
    ]


def test_a_step_can_be_entered_anywhere() -> None:
    model, annealing = make(start=1.6, fraction=1.0)
    annealing.apply(50)
    assert model.conv.norm == 1.3
    annealing.apply(0)
    assert model.conv.norm == 1.6


def test_off_by_default() -> None:
    model, annealing = make()
    annealing.apply(0)
    assert (model.conv.norm, model.conv.gradient) == (1.0, "adder")


def test_layers_compute_with_the_norm() -> None:
    model, annealing = make(start=2.0)
    annealing.apply(0)
    x = torch.randn(1, 1, 3, 3)
    expected = -(x - model.conv.weight).square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(model.conv(x).flatten(), expected)
