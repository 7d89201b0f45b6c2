from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.models import registry
from mulfree.models.registry import ScalableOptions


def test_names() -> None:
    assert models.list_models("resnet?0") == ["resnet20", "resnet50"]
    assert models.list_models("alexnet") == []


def test_options_and_their_defaults() -> None:
    assert models.model_options("resnet18") == {
        "num_classes": 10,
        "in_channels": 3,
        "norm_logits": None,
        "width": 1.0,
        "depth": 1.0,
        "channel_divisor": 1,
        "blocks": None,
        "small_input": False,
        "zero_init_residual": False,
        "gradient": None,
        "keep": ("first", "last"),
    }


def test_image_sizes() -> None:
    sizes = [models.image_size(name) for name in ("lenet5_bn", "resnet20", "resnet50", "vgg_small")]
    assert sizes == [28, 32, 224, 32]


def test_the_options_given_are_not_changed() -> None:
    options: dict[str, Any] = {"width": 0.1, "keep": ["last"]}
    models.create_model("lenet5_bn", **options)
    assert options == {"width": 0.1, "keep": ["last"]}


def test_no_model_config() -> None:
    with pytest.raises(
        ConfigError, match="`model` must be one that create_model built, got a ReLU"
    ):
        models.config_of(nn.ReLU())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "resnet19",
            {},
            "`name` must be one of ddnn.*, got 'resnet19'; did you mean 'resn",
        ),
        (["resnet18"], {}, r"`name` must be one of .*, got \['resnet18'\]"),
        (
            "resnet18",
            {"small_inptu": 1},
            "`options` must be one of blocks, chan.*in_.*'small_input'",
        ),
        (
            "resnet20",
            {"small_input": True},
            "`options` must be one of blocks, chan.*'small_input'",
        ),
        ("resnet20", {"operator": "adder"}, "got 'adder'; did you mean 'adder2d'"),
        ("resnet20", {"operator": ["adder2d"]}, "`operator` must be of type str"),
        ("resnet20", {"num_classes": 0}, "`num_classes` must be from 1 to 1000000, got 0"),
        ("resnet20", {"num_classes": "10"}, "`num_classes` must be of type int, got '10'"),
        ("resnet20", {"num_classes": True}, "`num_classes` must be of type int, got True"),
        ("resnet20", {"num_classes": 2.0}, "`num_classes` must be of type int, got 2.0"),
        ("resnet20", {"in_channels": -1}, "`in_channels` must be from 1 to 1000000, got -1"),
        ("lenet5_bn", {"embedding": 0}, "`embedding` must be from 1 to 1000000, got 0"),
        ("lenet5_bn", {"embedding": True}, r"`embedding` must be of type int \| None, got True"),
        ("resnet20", {"width": 0}, "`width` must be above 0 and at most 64, got 0"),
        ("resnet20", {"width": 65.0}, "`width` must be above 0 and at most 64, got 65.0"),
        ("resnet20", {"width": float("nan")}, "`width` must be above 0 .* got nan"),
        ("resnet20", {"width": "1"}, "`width` must be of type float, got '1'"),
        ("resnet20", {"norm_logits": 1}, "`norm_logits` must be of type bool, got 1"),
        ("resnet20", {"gradient": "sign"}, "must be None for operator 'conv2d', .* got 'sign'"),
        ("resnet20", {"operator": "adder2d", "gradient": "sgn"}, "`gradient` must be .* 'sgn'"),
        ("resnet20", {"keep": ("layer9",)}, "`keep` must name layers .* did you mean 'layer3'"),
    ],
)
def test_errors(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        models.create_model(name, **options)


def test_variants_of_one_function() -> None:
    lite = [f"{prefix}efficientnet_lite{n}" for prefix in ("", "tf_") for n in range(5)]
    assert registry.variants("efficientnet_lite2") == lite
    assert registry.variants("resnet20") == ["resnet20"]
    with pytest.raises(ConfigError, match=r"`name` must be one of .*, got 'resnet'"):
        registry.variants("resnet")


@pytest.mark.parametrize("function", [models.model_options, models.image_size])
def test_unknown_model(function: object) -> None:
    assert callable(function)
    with pytest.raises(ConfigError, match="did you mean 'vgg_small'"):
        function("vgg_smal")


def test_two_functions_cannot_take_one_name() -> None:
    def resnet20(options: models.ModelOptions) -> nn.Module:
        return nn.Linear(options.in_channels, options.num_classes)

    models.list_models()
    with pytest.raises(ConfigError, match=r"got 'resnet20', which is in \S*\.families\.resnet_"):
        models.register_model(resnet20)


@pytest.mark.parametrize(
    ("channels", "width", "divisor", "rounded"),
    [(32, 1.1, 8, 32), (16, 1.4, 8, 24), (320, 1.1, 8, 352), (10, 0.1, 8, 8), (16, 1.1, 1, 18)],
)
def test_channels_are_rounded_as_in_efficientnet(
    channels: int, width: float, divisor: int, rounded: int
) -> None:
    options = ScalableOptions(width=width, channel_divisor=divisor)
    assert options.scaled(channels) == rounded


def test_never_below_nine_tenths() -> None:
    # 12.4 is nearer to 8 than to 16, and 8 is below 11.16.
    assert ScalableOptions(width=0.31, channel_divisor=8).scaled(40) == 16


def test_blocks_are_rounded_up() -> None:
    assert [ScalableOptions(depth=1.1).repeated(blocks) for blocks in (1, 2, 3)] == [2, 3, 4]
    assert ScalableOptions().repeated(3) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0.0}, "`depth` must be above 0 and at most 64, got 0.0"),
        ({"depth": float("nan")}, "`depth` must be above 0 .* got nan"),
        ({"channel_divisor": 0}, "`channel_divisor` must be from 1 to 1000000, got 0"),
    ],
)
def test_options_of_scaling_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScalableOptions(**options)
