"""Options of models around a registered network."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from mulfree import models
from mulfree.errors import ConfigError

AROUND = [name for name in models.list_models() if "network" in models.model_options(name)]


def test_the_models_around_another() -> None:
    assert {"depth_dynamic", "dynamic_resolution", "early_exit"} <= set(AROUND)


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "early_exit"}, "`network` must be a model without a network inside, got 'ear"),
        ({"network": "resnet_20"}, "`name` must be one of .*did you mean 'resnet20'"),
        (
            {"network_options": {"width": 2.0}},
            "`network_options` must leave the options num_classes, .* to the whole, got 'width'",
        ),
        ({"network_options": {"depht": 2.0}}, "`options` must be one of .*got 'depht'"),
        ({"network_options": {"keep": []}}, "`options` must be one of .*got 'keep'"),
        ({"network_options": 3}, "`network_options` must be of type dict"),
    ],
)
def test_wrong_options_are_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        models.create_model(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("early_exit", {}), ("depth_dynamic", {"subnets": {"short": {"depth": 0.5}}})],
)
def test_a_network_without_stages(name: str, options: dict[str, Any]) -> None:
    message = "`network` must be a network of stages, as the residual, .* got 'lenet5_bn'"
    with pytest.raises(ConfigError, match=message):
        models.create_model(name, network="lenet5_bn", **options)


def test_options_of_the_whole_and_layers_that_multiply_are_those_of_the_network_inside() -> None:
    options: dict[str, Any] = {"width": 0.5, "num_classes": 4, "operator": "adder2d"}
    alone = models.create_model("efficientnet_b0", **options)
    whole = models.create_model("early_exit", network="efficientnet_b0", **options)
    inside = whole.get_submodule("network")
    assert {key: value.shape for key, value in inside.state_dict().items()} == {
        key: value.shape for key, value in alone.state_dict().items()
    }
    multiplying = [
        [name for name, layer in network.named_modules() if type(layer) is nn.Conv2d]
        for network in (alone, inside)
    ]
    assert multiplying[0] == multiplying[1]
    assert len(multiplying[0]) > 2
