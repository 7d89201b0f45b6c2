"""EfficientNet: MBConv blocks scaled together in depth, width and resolution.

`efficientnet_b0` to `b7` are the networks of torchvision and timm, `tf_efficientnet_b0` to `b7` the
original ones: padding "SAME" of TensorFlow and an `eps` of 1e-3.

References:
    arXiv 1905.11946, Tables 1 and 2; efficientnet_builder.py of github.com/tensorflow/tpu; `eps`:
    efficientnet.py of torchvision.
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
    # width, depth, side of the images, dropout, eps in torchvision
    "b0": (1.0, 1.0, 224, 0.2, 1e-5),
    "b1": (1.0, 1.1, 240, 0.2, 1e-5),
    "b2": (1.1, 1.2, 260, 0.3, 1e-5),
    "b3": (1.2, 1.4, 300, 0.3, 1e-5),
    "b4": (1.4, 1.8, 380, 0.4, 1e-5),
    "b5": (1.6, 2.2, 456, 0.4, 1e-3),
    "b6": (1.8, 2.6, 528, 0.5, 1e-3),
    "b7": (2.0, 3.1, 600, 0.5, 1e-3),
}
_TENSORFLOW_EPS = 1e-3


@dataclass(frozen=True, kw_only=True)
class Config(MobileOptions):
    """Options of EfficientNet, with the defaults of the paper's code."""

    stochastic_depth: float = 0.2
    bn_momentum: float = 0.01


def efficientnet(options: Config) -> nn.Module:
    """Build EfficientNet: with width and depth 1 that is B0, with 5.3 M parameters."""

    def block(channels: int, stage: Stage, stride: int, drop: float) -> nn.Module:
        return InvertedResidual(channels, stage, stride, options, nn.SiLU, squeeze=True, drop=drop)

    return MobileNetwork(
        [stage.scaled(options) for stage in STAGES],
        options,
        block,
        nn.SiLU,
        stem=options.scaled(STEM),
        head=options.scaled(HEAD),
    )


for _variant, (_width, _depth, _side, _dropout, _eps) in _VARIANTS.items():
    for _name, _padding in (
        (f"efficientnet_{_variant}", {"bn_eps": _eps}),
        (f"tf_efficientnet_{_variant}", {"bn_eps": _TENSORFLOW_EPS, "same_padding": True}),
    ):
        register_model(
            efficientnet,
            name=_name,
            image_size=_side,
            defaults={"width": _width, "depth": _depth, "dropout": _dropout, **_padding},
        )
