from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from mulfree import models
from mulfree.models.adapters import absorbing_layers, make_adapter, merged_weight
from mulfree.models.staged import StagedNetwork
from mulfree.models.units import block_units, stage_units


def make(name: str, **options: Any) -> StagedNetwork:
    torch.manual_seed(0)
    network = models.create_model(name, num_classes=3, **{"width": 0.125, **options})
    assert isinstance(network, StagedNetwork)
    return network.eval().double()


def absorbing(network: StagedNetwork, split: Any) -> dict[str, list[str] | None]:
    x = split(network)[0].run(network, torch.randn(1, 3, 32, 32, dtype=torch.float64))
    found = {}
    for unit in split(network)[1:]:
        found[unit.name] = absorbing_layers(unit, network, x)
        x = unit.run(network, x)
    return found


def test_an_adapter() -> None:
    torch.manual_seed(0)
    adapter = make_adapter(64, 128)
    assert adapter.bias is None
    assert adapter.weight.shape == (128, 64, 1, 1)
    assert adapter.weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)


def test_layers_that_absorb() -> None:
    first = ("conv1", "downsample.0")
    assert absorbing(make("resnet20", blocks=[2, 1, 1]), stage_units) == {
        "stage 2": [f"layer2.0.{name}" for name in first],
        "stage 3": [f"layer3.0.{name}" for name in first],
        "classifier": ["fc"],
    }
    # A shortcut and the activation after a sum read the input as it is.
    assert absorbing(make("resnet20", blocks=[2, 1, 1]), block_units)["layer1.1"] is None
    assert absorbing(make("vgg_small"), block_units)["features.1"] == ["features.1.0"]
    # The first block of the second stage has no expansion before its depthwise layer.
    assert absorbing(make("mobilenet_v1"), stage_units)["stage 2"] is None
    assert absorbing(make("mobilenet_v2"), stage_units)["classifier"] == ["head.conv"]


def test_adder_layers_absorb_nothing() -> None:
    found = absorbing(make("resnet20", operator="adder2d", blocks=[1, 1, 1]), stage_units)
    assert found == {"stage 2": None, "stage 3": None, "classifier": ["fc"]}
    # One of the two readers still adds.
    keep = ["layer3.0.conv1", "layer3.0.downsample.0"]
    named = ["first", "last", "layer2.0.conv1", *keep]
    network = make("resnet20", operator="adder2d", blocks=[1, 1, 1], keep=named)
    assert absorbing(network, stage_units) == {
        "stage 2": None,
        "stage 3": keep,
        "classifier": ["fc"],
    }


@pytest.mark.parametrize("name", ["resnet20", "vgg_small", "mobilenet_v2"])
@torch.no_grad()
def test_merged_adapters_change_nothing(name: str) -> None:
    options = {"blocks": [1, 1, 1]} if name == "resnet20" else {}
    network = make(name, **options)
    units = stage_units(network)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    merged = 0
    for before, unit in pairwise(units):
        x = before.run(network, x)
        layers = absorbing_layers(unit, network, x)
        if layers is None:
            continue
        channels = x.shape[1]
        there = make_adapter(channels, 2 * channels).double()
        back = make_adapter(2 * channels, channels).double()
        expected = unit.run(network, back(there(x)))
        for layer in layers:
            weight = network.get_parameter(f"{layer}.weight")
            weight.copy_(merged_weight(weight, [there.weight, back.weight]))
        torch.testing.assert_close(unit.run(network, x), expected, rtol=1e-9, atol=1e-9)
        merged += 1
    assert merged >= 3
