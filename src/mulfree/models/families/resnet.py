"""Residual networks for 224x224 images, with the stride on the 3x3 layers as in torchvision.

References:
    arXiv 1512.03385, Table 1. With adders: arXiv 1912.13200.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from mulfree.models.registry import ScalableOptions, register_model
from mulfree.models.residual import BasicBlock, Bottleneck, ResidualNetwork
from mulfree.models.staged import block_counts


@dataclass(frozen=True, kw_only=True)
class Config(ScalableOptions):
    """Options of the residual networks for 224x224 images.

    Attributes:
        blocks: Blocks of each stage, before `depth`; None for the model's own.
        small_input: A 3x3 first layer without pooling, for images of 32x32 or 64x64 pixels.
        zero_init_residual: Start each block as its shortcut alone.
    """

    image_size: ClassVar[int] = 224

    blocks: list[int] | None = None
    small_input: bool = False
    zero_init_residual: bool = False


def _network(
    block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], options: Config
) -> nn.Module:
    network = ResidualNetwork(
        block,
        block_counts(options.blocks, depths),
        (64, 128, 256, 512),
        options=options,
        small_stem=options.small_input,
        classifier_bias=True,
        zero_init_residual=options.zero_init_residual,
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


@register_model
def resnet18(options: Config) -> nn.Module:
    """ResNet-18: 11.7 M parameters, 1.8 G taps on a 224x224 image, with 1000 classes."""
    return _network(BasicBlock, (2, 2, 2, 2), options)


@register_model
def resnet34(options: Config) -> nn.Module:
    """ResNet-34: 21.8 M parameters, 3.7 G taps on a 224x224 image, with 1000 classes."""
    return _network(BasicBlock, (3, 4, 6, 3), options)


@register_model
def resnet50(options: Config) -> nn.Module:
    """ResNet-50: 25.6 M parameters, 4.1 G taps on a 224x224 image, with 1000 classes."""
    return _network(Bottleneck, (3, 4, 6, 3), options)


@register_model
def resnet101(options: Config) -> nn.Module:
    """ResNet-101: 44.5 M parameters, 7.8 G taps on a 224x224 image, with 1000 classes."""
    return _network(Bottleneck, (3, 4, 23, 3), options)
