"""Parts of the strategies; `test_distributed` runs them."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from mulfree import models
from mulfree.training.distributed.strategy import (
    ShardedStrategy,
    _groups,
    build_strategy,
)
from mulfree.training.methods import early_exit, embedded_kd, supervised

NAMES: tuple[Literal["auto", "ddp", "fsdp"], ...] = ("auto", "ddp", "fsdp")


def test_strategies_of_one_and_of_many_processes() -> None:
    assert {build_strategy(name, 1) for name in NAMES} == {"auto"}
    assert [type(build_strategy(name, 2)) for name in NAMES] == [
        DDPStrategy,
        DDPStrategy,
        ShardedStrategy,
    ]


@pytest.mark.parametrize(
    ("name", "options", "method", "expected"),
    [
        ("resnet20", {}, supervised, False),
        ("early_exit", {}, supervised, True),
        ("early_exit", {}, early_exit, False),
        ("ddnn_resnet20_32_56", {}, supervised, True),
        ("ddnn_resnet20_32_56", {"batch_norm": "shared"}, supervised, False),
        ("ddnn_resnet20_32_56", {}, embedded_kd, False),
    ],
)
def test_parameters_without_a_gradient_are_searched_where_a_step_leaves_some_out(
    name: str, options: dict[str, Any], method: Any, expected: bool
) -> None:
    torch.manual_seed(0)
    model = models.create_model(name, width=0.0625, num_classes=3, **options)
    made = method.Method(model, method.Config())
    made((torch.randn(2, 3, 8, 8), torch.tensor([0, 1])))["loss"].backward()
    left_out = any(parameter.grad is None for parameter in made.parameters())
    assert left_out == made.leaves_out_parameters == expected
    strategy = build_strategy("ddp", 2, find_unused=expected)
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs["find_unused_parameters"] == expected


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("lenet5_bn", ["conv1", "conv2", "conv3", "conv4", "fc"]),
        ("resnet20", ["conv1", *(f"layer{i}.{j}" for i in (1, 2, 3) for j in range(3)), "fc"]),
        ("vgg_small", [*(f"features.{i}.0" for i in range(6)), "fc"]),
    ],
)
def test_what_is_gathered_together(name: str, groups: list[str]) -> None:
    with torch.device("meta"):
        network = models.create_model(name, operator="adder2d")
    names = {module: name for name, module in network.named_modules()}
    assert [names[group] for group in _groups(network)] == groups
