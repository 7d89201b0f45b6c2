from __future__ import annotations

from typing import Any

import pytest
import torch

from mulfree import models
from mulfree.models.staged import StagedNetwork
from mulfree.models.units import block_units, is_equal, stage_units


def make(name: str, **options: Any) -> StagedNetwork:
    torch.manual_seed(0)
    network = models.create_model(name, num_classes=3, **{"width": 0.125, **options})
    assert isinstance(network, StagedNetwork)
    return network.eval()


@pytest.mark.parametrize("name", ["resnet20", "vgg_small", "mobilenet_v2", "resnet18"])
@pytest.mark.parametrize("split", [stage_units, block_units])
def test_units_in_order_are_the_network(name: str, split: Any) -> None:
    network = make(name)
    images = x = torch.randn(2, 3, 32, 32)
    units = split(network)
    for unit in units:
        x = unit.run(network, x)
    assert torch.equal(x, network(images))
    layers = [layer for unit in units for layer in unit.layers(network)]
    modules = [name for name, module in network.named_modules() if not any(module.children())]
    assert layers == modules


def test_names() -> None:
    network = make("resnet20", blocks=[1, 2, 1])
    stages = ["stage 1", "stage 2", "stage 3", "classifier"]
    assert [unit.name for unit in stage_units(network)] == stages
    blocks = ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "classifier"]
    assert [unit.name for unit in block_units(network)] == blocks


def test_equal_units() -> None:
    network = make("resnet20", blocks=[1, 2, 1])

    def equal(name: str = "resnet20", **options: Any) -> list[bool]:
        other = make(name, **{"blocks": [1, 2, 1], **options})
        return [is_equal(unit, network, other) for unit in stage_units(network)]

    assert equal() == [True] * 4
    assert equal(blocks=[1, 1, 1]) == [True, False, True, True]
    assert equal(operator="adder2d", norm_logits=False) == [False, False, False, True]
    assert equal(norm_logits=True) == [True, True, True, False]
    assert equal(width=0.25) == [False] * 4
    assert equal("resnet18", blocks=[1, 2, 1, 1]) == [False] * 4
