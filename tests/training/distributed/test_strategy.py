"""Parts of the strategies; `test_distributed` runs them."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from mulfree import models
from mulfree.training.distributed.strategy import (
    ShardedStrategy,
    _groups,
    build_strategy,
)

NAMES: tuple[Literal["auto", "ddp", "fsdp"], ...] = ("auto", "ddp", "fsdp")


def test_strategies_of_one_and_of_many_processes() -> None:
    assert {build_strategy(name, 1) for name in NAMES} == {"auto"}
    assert [type(build_strategy(name, 2)) for name in NAMES] == [
        DDPStrategy,
        DDPStrategy,
        ShardedStrategy,
    ]


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
