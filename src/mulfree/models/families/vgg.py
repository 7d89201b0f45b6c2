"""VGG-small: the plain network for 32x32 images in quantisation papers.

References:
    LQ-Nets, arXiv 1807.10029. With adders: arXiv 1912.13200.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import Tensor, nn

from mulfree.models.parts import logit_norm
from mulfree.models.registry import ModelOptions, register_model
from mulfree.models.staged import StagedNetwork, block_counts

# Channels of the layers of each stage.
_STAGES = (128, 256, 512)
_POOL = 1
"""Place of the pooling in a block."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Options of VGG-small.

    Attributes:
        blocks: 3x3 layers of each stage; None for two.
    """

    blocks: list[int] | None = None


class VGGSmall(StagedNetwork):
    """Three stages of 3x3 layers, by default two, and a classifier.

    The last layer of a stage ends with 2x2 max pooling, which precedes batch norm:
    `relu(bn(maxpool(conv(x))))`. The input of the classifier is 4x4, from 32x32 pixels; other
    sizes are average-pooled to 4x4.
    """

    minimum_side = 8
    last_differs = True

    def __init__(self, options: Config) -> None:
        super().__init__()
        self.in_channels = options.in_channels
        self.features = nn.Sequential()
        self._depths = block_counts(options.blocks, (2,) * len(_STAGES))
        channels = options.in_channels
        for count, depth in zip(map(options.scaled, _STAGES), self._depths, strict=True):
            for _ in range(depth):
                block = nn.Sequential(
                    nn.Conv2d(channels, count, 3, padding=1, bias=False),
                    nn.Identity(),
                    nn.BatchNorm2d(count),
                    nn.ReLU(inplace=True),
                )
                self.features.append(block)
                channels = count
        self._place_pooling()
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        # The kernel covers the map: a fully connected layer, without a change of layout.
        self.fc = nn.Conv2d(channels, options.num_classes, 4, bias=not options.norm_logits)
        self.bn_fc = logit_norm(options.num_classes, options.norm_logits)

    def stage_blocks(self) -> list[list[str]]:
        """Return the names of the layers of every stage, in order."""
        ends = accumulate(self._depths, initial=0)
        return [[f"features.{n}" for n in range(*ends_of)] for ends_of in pairwise(ends)]

    def keep_blocks(self, blocks: Sequence[Sequence[int]] | None) -> None:
        """Leave out all layers but these; the last that runs of a stage pools."""
        super().keep_blocks(blocks)
        self._place_pooling()

    def _place_pooling(self) -> None:
        last = {names[-1] for names in self.running()}
        for name in (name for names in self.stage_blocks() for name in names):
            block = self.get_submodule(name)
            assert isinstance(block, nn.Sequential)
            block[_POOL] = nn.MaxPool2d(2) if name in last else nn.Identity()

    def run_stem(self, images: Tensor) -> Tensor:
        """Images: there is no stem."""
        return images

    def classify(self, features: Tensor) -> Tensor:
        """Output of the last stage to logits `[N, classes]`."""
        logits: Tensor = self.bn_fc(self.fc(self.avgpool(features)))
        return logits.flatten(1)


@register_model
def vgg_small(options: Config) -> nn.Module:
    """VGG-small: 4.7 M parameters, 0.608 G taps on a 32x32 image."""
    return VGGSmall(options)
