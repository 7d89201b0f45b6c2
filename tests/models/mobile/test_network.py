"""Networks of the mobile families: placement, options, training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.models.mobile.layers import StochasticDepth
from mulfree.nn import Adder2d


@pytest.mark.parametrize(
    ("placement", "parts"),
    [
        ("all", {"expand", "depthwise", "project", "head"}),
        ("pointwise", {"expand", "project", "head"}),
        ("expansion", {"expand"}),
        ("depthwise", {"depthwise"}),
        ("projection", {"project"}),
    ],
)
def test_placement(placement: str, parts: set[str]) -> None:
    with torch.device("meta"):
        model = models.create_model("efficientnet_b0", operator="adder2d", placement=placement)
    found = {
        name.split(".")[-2] for name, module in model.named_modules() if type(module) is Adder2d
    }
    assert found == parts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "depthwse"}, "`placement` must be one of .* did you mean 'depthwise'"),
        ({"dropout": 1.0}, "`dropout` must be from 0 to below 1, got 1.0"),
        ({"stochastic_depth": -0.1}, "`stochastic_depth` must be from 0 to below 1, got -0.1"),
        ({"bn_eps": 0.0}, "`bn_eps` must be above 0 and at most 1, got 0.0"),
        ({"bn_momentum": math.nan}, "`bn_momentum` must be above 0 and at most 1, got nan"),
        ({"same_padding": 1}, "`same_padding` must be of type bool, got 1"),
        ({"depth": 0.0}, "`depth` must be above 0"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        models.create_model("mobilenet_v2", **options)


def test_the_probability_of_skipping_grows_linearly() -> None:
    with torch.device("meta"):
        model = models.create_model("efficientnet_b0")
    rates = [module.rate for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.2 * index / 16 for index in range(16)])


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0", "mobilenet_v2"])
def test_an_adder_network_trains_a_step(name: str) -> None:
    model = models.create_model(name, operator="adder2d", width=0.25, depth=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    before = model(images)
    assert before.isfinite().all()
    assert before.std(0).min() > 1e-3
    functional.cross_entropy(before, labels).backward()
    optimizer.step()
    after = model(images)
    assert after.isfinite().all()
    assert not torch.allclose(after, before)


def test_initialisation_of_the_convolutions() -> None:
    model = models.create_model("efficientnet_b0", width=2.0, num_classes=100)
    for name, fan_out in (("stem.conv", 9 * 64), ("stages.5.1.depthwise.conv", 25)):
        weight = model.get_parameter(f"{name}.weight").detach()
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
    last = model.get_submodule("fc")
    assert isinstance(last, nn.Conv2d)
    assert float(last.weight.detach().abs().max()) == pytest.approx(0.1, rel=0.01)
    assert last.bias is not None
    assert not last.bias.any()


def test_stem_and_head_of_lite_and_the_head_of_a_narrow_mobilenet_keep_their_width() -> None:
    with torch.device("meta"):
        lite = models.create_model("efficientnet_lite4")
        narrow = models.create_model("mobilenet_v2", width=0.5)
    assert len(lite.get_parameter("stem.conv.weight")) == 32
    assert len(lite.get_parameter("head.conv.weight")) == 1280
    assert [len(list(stage.children())) for stage in lite.get_submodule("stages").children()] == [
        *(1, 4, 4, 6, 6, 8, 1),
    ]
    assert len(narrow.get_parameter("head.conv.weight")) == 1280
    assert len(narrow.get_parameter("stem.conv.weight")) == 16
