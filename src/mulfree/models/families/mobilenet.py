"""MobileNetV1 and V2.

References:
    arXiv 1704.04861, Table 1; arXiv 1801.04381, Table 2; sizes and padding of V2: mobilenetv2.py of
    torchvision.
"""

from __future__ import annotations

from torch import nn

from mulfree.models.mobile.blocks import DepthwiseSeparable, InvertedResidual, Stage
from mulfree.models.mobile.network import MobileNetwork
from mulfree.models.mobile.options import MobileOptions
from mulfree.models.registry import register_model

Config = MobileOptions

_STEM, _HEAD = 32, 1280
_V1 = (
    # expansion, kernel, stride, channels, blocks
    Stage(1, 3, 1, 64, 1),
    Stage(1, 3, 2, 128, 2),
    Stage(1, 3, 2, 256, 2),
    Stage(1, 3, 2, 512, 6),
    Stage(1, 3, 2, 1024, 2),
)
_V2 = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 3, 2, 32, 3),
    Stage(6, 3, 2, 64, 4),
    Stage(6, 3, 1, 96, 3),
    Stage(6, 3, 2, 160, 3),
    Stage(6, 3, 1, 320, 1),
)


@register_model
def mobilenet_v1(options: Config) -> nn.Module:
    """MobileNetV1: 4.2 M parameters, 0.57 G taps on a 224x224 image, with 1000 classes."""

    def block(channels: int, stage: Stage, stride: int, _drop: float) -> nn.Module:
        return DepthwiseSeparable(channels, stage, stride, options, nn.ReLU6)

    return MobileNetwork(
        [stage.scaled(options) for stage in _V1],
        options,
        block,
        nn.ReLU6,
        stem=options.scaled(_STEM),
        head=None,
    )


@register_model
def mobilenet_v2(options: Config) -> nn.Module:
    """MobileNetV2: 3.5 M parameters, 0.30 G taps on a 224x224 image, with 1000 classes.

    The head is widened by a width above 1, but never narrowed.
    """

    def block(channels: int, stage: Stage, stride: int, drop: float) -> nn.Module:
        return InvertedResidual(
            channels, stage, stride, options, nn.ReLU6, squeeze=False, drop=drop
        )

    return MobileNetwork(
        [stage.scaled(options) for stage in _V2],
        options,
        block,
        nn.ReLU6,
        stem=options.scaled(_STEM),
        head=max(_HEAD, options.scaled(_HEAD)),
    )
