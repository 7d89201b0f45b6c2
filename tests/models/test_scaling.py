"""Compound scaling: rounding rules of the paper, limits, and the networks that come out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mulfree import models
from mulfree.errors import ConfigError


def meta(scaled: models.ScaledModel, **options: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return scaled.create(**options)


def test_the_formula() -> None:
    scaled = models.scale("resnet18", 2, 1.2, 1.1, 1.15)
    assert scaled.depth == pytest.approx(1.44)
    assert scaled.width == pytest.approx(1.21)
    # 224 * 1.3225 = 296.24.
    assert scaled.image_size == 296
    assert scaled == models.scale("resnet18", 2)


def test_blocks_are_rounded_up_and_channels_to_multiples_of_eight() -> None:
    network = meta(models.scale("resnet20", 2))
    # 3 * 1.44 = 4.32 blocks; 16, 32, 64 * 1.21 = 19.36, 38.72, 77.44 channels.
    stages = [network.get_submodule(f"layer{stage}") for stage in (1, 2, 3)]
    assert [len(list(stage.children())) for stage in stages] == [5, 5, 5]
    shapes = [stage.get_parameter("0.conv2.weight").shape[0] for stage in stages]
    assert shapes == [24, 40, 80]


def test_phi_zero_is_the_network_itself() -> None:
    scaled = models.scale("resnet18", 0)
    assert scaled.image_size == 224
    plain = models.create_model("resnet18", width=1 / 64).state_dict()
    same = models.scale("resnet18", 0, width=1 / 64, channel_divisor=1).create().state_dict()
    assert {key: value.shape for key, value in same.items()} == {
        key: value.shape for key, value in plain.items()
    }


def test_options_are_those_of_phi_zero() -> None:
    scaled = models.scale(
        "resnet20", 1, 2, 1.5, 1.25, depth=1 / 3, width=0.5, base_size=25, operator="adder2d"
    )
    assert scaled.depth == pytest.approx(2 / 3)
    assert scaled.width == pytest.approx(0.75)
    # 31.25 is nearest to 32 among the even numbers.
    assert scaled.image_size == 32
    config = models.config_of(meta(scaled, num_classes=4))
    assert config.arguments["operator"] == "adder2d"
    assert config.arguments["num_classes"] == 4


@pytest.mark.parametrize(("base", "gamma", "side"), [(33, 1, 33), (33, 1.01, 34), (24, 1.15, 28)])
def test_sides_are_even_unless_gamma_is_one(base: int, gamma: float, side: int) -> None:
    assert models.scale("resnet20", 1, 1, 1, gamma, base_size=base).image_size == side


def test_which_families_can_be_scaled() -> None:
    assert models.is_scalable("resnet50")
    assert not models.is_scalable("lenet5_bn")
    assert not models.is_scalable("vgg_small")


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (("resnet20", -1), {}, "`phi` must be a number from 0 to 20, got -1"),
        (("resnet20", 21), {}, "`phi` must be a number from 0 to 20, got 21"),
        (("resnet20", float("nan")), {}, "`phi` must be .*, got nan"),
        (("resnet20", "2"), {}, "`phi` must be .*, got '2'"),
        (("resnet20", True), {}, "`phi` must be .*, got True"),
        (("resnet20", 1, 0.9), {}, "`alpha` must be a number from 1 to 4, got 0.9"),
        (("resnet20", 1, 1, 5), {}, "`beta` must be a number from 1 to 4, got 5"),
        (("resnet20", 1, 1, 1, 0), {}, "`gamma` must be a number from 1 to 4, got 0"),
        (("resnet20", 20, 1, 1, 2), {}, "`resolution` must be a number from 1 to 65536, got 335"),
        (("resnet20", 1), {"base_size": 0}, "`base_size` must be an integer from 1 .* got 0"),
        (("resnet20", 1), {"base_size": 24.5}, "`base_size` must be an integer .* got 24.5"),
        (("resnet20", 1), {"width": "a"}, "`width` must be a number at least 0, got 'a'"),
        (
            ("vgg_small", 1),
            {},
            "`name` must be a network with the options depth and width, got vgg_small",
        ),
        (("no_such", 1), {}, "`name` must be one of .*, got 'no_such'"),
    ],
)
def test_refuses(words: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        models.scale(*words, **options)


def test_a_depth_out_of_range_is_refused_when_the_network_is_created() -> None:
    scaled = models.scale("resnet20", 20, 2, 1, 1)
    with pytest.raises(ConfigError, match="`depth` must be above 0 and at most 64, got 1048576"):
        scaled.create()
