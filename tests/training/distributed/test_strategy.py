"""Parts of the strategies; `test_distributed` runs them."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.operators import uses_adaptive_local_lr
from mulfree.training import TrainerConfig
from mulfree.training.distributed.strategy import (
    ShardedStrategy,
    _fully_shard,
    _groups,
    _sharded_state,
    build_strategy,
)

NAMES: tuple[Literal["auto", "ddp", "fsdp"], ...] = ("auto", "ddp", "fsdp")


@pytest.mark.parametrize("name", NAMES)
def test_a_single_process_needs_none(name: Literal["auto", "ddp", "fsdp"]) -> None:
    assert build_strategy(name, 1) == "auto"


def test_strategies_of_many_processes() -> None:
    assert [type(build_strategy(name, 2)) for name in NAMES] == [
        DDPStrategy,
        DDPStrategy,
        ShardedStrategy,
    ]


def test_the_name_is_checked() -> None:
    with pytest.raises(ConfigError, match="`strategy` must be one of auto, ddp, fsdp, got 'fspd'"):
        TrainerConfig(strategy="fspd")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("lenet5_bn", ["conv1", "conv2", "conv3", "conv4", "fc"]),
        (
            "resnet20",
            ["conv1", *(f"layer{i}.{j}" for i in (1, 2, 3) for j in range(3)), "fc"],
        ),
        (
            "resnet50",
            [
                "conv1",
                *(f"layer{i + 1}.{j}" for i, n in enumerate((3, 4, 6, 3)) for j in range(n)),
                "fc",
            ],
        ),
        ("vgg_small", [*(f"features.{i}.0" for i in range(6)), "fc"]),
    ],
)
def test_what_is_gathered_together(name: str, groups: list[str]) -> None:
    with torch.device("meta"):
        network = models.create_model(name, operator="adder2d")
    names = {module: name for name, module in network.named_modules()}
    assert [names[group] for group in _groups(network)] == groups


def test_adder_weights_stay_marked_when_they_are_divided(mesh: DeviceMesh) -> None:
    network = models.create_model("lenet5_bn", operator="adder2d", width=0.25)
    before = {name: uses_adaptive_local_lr(p) for name, p in network.named_parameters()}
    for group in (*_groups(network), network):
        _fully_shard(group, mesh)
    assert all(isinstance(p, DTensor) for p in network.parameters())
    assert {name: uses_adaptive_local_lr(p) for name, p in network.named_parameters()} == before
    assert sum(before.values()) > 0


def test_state_of_an_optimizer_is_divided_like_its_parameters(mesh: DeviceMesh) -> None:
    layer = nn.Linear(3, 4)
    full = torch.optim.Adam(layer.parameters(), lr=0.5)
    layer(torch.ones(1, 3)).sum().backward()
    full.step()
    _fully_shard(layer, mesh)
    state = _sharded_state(torch.optim.Adam(layer.parameters()), full.state_dict())
    assert state["param_groups"] == full.state_dict()["param_groups"]
    for index, entry in full.state_dict()["state"].items():
        divided = state["state"][index]
        assert divided["step"] is entry["step"]
        for key in ("exp_avg", "exp_avg_sq"):
            assert isinstance(divided[key], DTensor)
            assert torch.equal(divided[key].full_tensor(), entry[key])
