"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6, for integers.

Stem and head are not scaled in width, first and last stage not in depth. `tf_efficientnet_lite0` to
`lite4` are the same networks under timm's names.

References:
    efficientnet_lite_builder.py of github.com/tensorflow/tpu.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mulfree.models.mobile.blocks import InvertedResidual, Stage
from mulfree.models.mobile.efficientnet_table import HEAD, STAGES, STEM
from mulfree.models.mobile.network import MobileNetwork
from mulfree.models.mobile.options import MobileOptions
from mulfree.models.registry import register_model

_VARIANTS = {
    # width, depth, side of the images, dropout
    "lite0": (1.0, 1.0, 224, 0.2),
    "lite1": (1.0, 1.1, 240, 0.2),
    "lite2": (1.1, 1.2, 260, 0.3),
    "lite3": (1.2, 1.4, 280, 0.3),
    "lite4": (1.4, 1.8, 300, 0.3),
}


@dataclass(frozen=True, kw_only=True)
class Config(MobileOptions):
    """Options of EfficientNet-Lite, with the defaults of its code."""

    stochastic_depth: float = 0.2
    bn_eps: float = 1e-3
    bn_momentum: float = 0.01
    same_padding: bool = True


def efficientnet_lite(options: Config) -> nn.Module:
    """Build EfficientNet-Lite: with width and depth 1 that is Lite0, with 4.7 M parameters."""

    def block(channels: int, stage: Stage, stride: int, drop: float) -> nn.Module:
        return InvertedResidual(
            channels, stage, stride, options, nn.ReLU6, squeeze=False, drop=drop
        )

    first, *inner, last = STAGES
    return MobileNetwork(
        [
            first.scaled(options, deepens=False),
            *(stage.scaled(options) for stage in inner),
            last.scaled(options, deepens=False),
        ],
        options,
        block,
        nn.ReLU6,
        stem=STEM,
        head=HEAD,
    )


for _variant, (_width, _depth, _side, _dropout) in _VARIANTS.items():
    for _name in (f"efficientnet_{_variant}", f"tf_efficientnet_{_variant}"):
        register_model(
            efficientnet_lite,
            name=_name,
            image_size=_side,
            defaults={"width": _width, "depth": _depth, "dropout": _dropout},
        )
