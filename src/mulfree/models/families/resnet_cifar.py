"""Residual networks for 32x32 images: three stages of 16, 32 and 64 channels.

With operator adder2d they equal the networks of the AdderNet authors weight by weight: 1x1
shortcuts with batch norm ("option B") and a 1x1 convolution as classifier.

References:
    arXiv 1512.03385, section 4.2 (6n + 2 layers). With adders: arXiv 1912.13200.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mulfree.models.registry import ScalableOptions, register_model
from mulfree.models.residual import BasicBlock, ResidualNetwork
from mulfree.models.staged import block_counts


@dataclass(frozen=True, kw_only=True)
class Config(ScalableOptions):
    """Options of the residual networks for 32x32 images.

    Attributes:
        blocks: Blocks of each stage, before `depth`; None for the model's own.
        zero_init_residual: Start each block as its shortcut alone.
    """

    blocks: list[int] | None = None
    zero_init_residual: bool = False


def _network(blocks_per_stage: int, options: Config) -> nn.Module:
    return ResidualNetwork(
        BasicBlock,
        block_counts(options.blocks, (blocks_per_stage,) * 3),
        (16, 32, 64),
        options=options,
        small_stem=True,
        # No effect before batch norm; the published classifier has none.
        classifier_bias=not options.norm_logits,
        zero_init_residual=options.zero_init_residual,
    )


@register_model
def resnet20(options: Config) -> nn.Module:
    """ResNet-20: 0.27 M parameters, 40.8 M taps on a 32x32 image."""
    return _network(3, options)


@register_model
def resnet32(options: Config) -> nn.Module:
    """ResNet-32: 0.47 M parameters, 69.1 M taps on a 32x32 image."""
    return _network(5, options)


@register_model
def resnet44(options: Config) -> nn.Module:
    """ResNet-44: 0.66 M parameters, 97.4 M taps on a 32x32 image."""
    return _network(7, options)


@register_model
def resnet56(options: Config) -> nn.Module:
    """ResNet-56: 0.86 M parameters, 125.8 M taps on a 32x32 image."""
    return _network(9, options)


@register_model
def resnet110(options: Config) -> nn.Module:
    """ResNet-110: 1.73 M parameters, 253.1 M taps on a 32x32 image."""
    return _network(18, options)
