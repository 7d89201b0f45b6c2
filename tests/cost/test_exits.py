"""Networks up to the exits, counted by hand and against the truth of a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mulfree import cost, models
from mulfree.errors import ConfigError
from mulfree.models.early_exit import AllExits, EarlyExitNetwork


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("resnet20", {"network_options": {"blocks": [1, 1, 1]}}),
        ("resnet50", {"network_options": {"blocks": [1, 1, 1, 1]}, "exits": [2]}),
        ("vgg_small", {}),
        ("mobilenet_v2", {"exits": [1, 3]}),
    ],
)
def test_operations_and_parameters_of_what_an_image_passes(
    network: str, options: dict[str, Any]
) -> None:
    with torch.device("meta"):
        model = models.create_model("early_exit", network=network, width=0.125, **options)
    assert isinstance(model, EarlyExitNetwork)
    size = (3, 32, 32)
    found = {name: cost.count(part, size) for name, part in cost.networks_to_exits(model).items()}
    assert tuple(found) == model.outputs
    for name, profile in found.items():
        assert profile.uncalled == ()
        assert profile.total.cost == cost.count(AllExits(model, name), size).total.cost
        # No parameter but those of the layers that are called.
        assert profile.total.params == sum(layer.params for layer in profile.layers)
    params = [profile.total.params for profile in found.values()]
    assert params == sorted(set(params))
    assert params[-1] == sum(parameter.numel() for parameter in model.parameters())


def test_a_network_of_unknown_origin() -> None:
    model = models.create_model("early_exit", width=0.125)
    assert isinstance(model, EarlyExitNetwork)
    other = EarlyExitNetwork(model.network, [1], [2, 4, 8], num_classes=10, norm_logits=False)
    assert isinstance(other, nn.Module)
    with pytest.raises(ConfigError, match="must be one that create_model built"):
        cost.networks_to_exits(other)
