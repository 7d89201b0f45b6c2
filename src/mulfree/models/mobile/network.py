"""Network of a stem, stages of blocks, a head and a classifier.

References:
    arXiv 1905.11946, Table 1; initialisation: efficientnet_model.py of github.com/tensorflow/tpu.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mulfree.models.mobile.blocks import Stage
from mulfree.models.mobile.layers import ConvNormAct
from mulfree.models.mobile.options import MobileOptions
from mulfree.models.parts import logit_norm
from mulfree.models.staged import StagedNetwork

Block = Callable[[int, Stage, int, float], nn.Module]
"""Block of input channels, row of the table, stride, and probability of skipping it."""


class MobileNetwork(StagedNetwork):
    """A 3x3 stem of stride 2, stages, an optional 1x1 head, average pooling and a classifier.

    Args:
        stages: Block table, scaled.
        options: Options of the network.
        block: Constructor of a block.
        activation: Activation of stem and head.
        stem: Channels of the stem.
        head: Channels of the head; None for no head.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        options: MobileOptions,
        block: Block,
        activation: type[nn.Module],
        *,
        stem: int,
        head: int | None,
    ) -> None:
        super().__init__()
        self.in_channels = options.in_channels
        self.stem = ConvNormAct(self.in_channels, stem, options, activation, kernel=3, stride=2)
        self.stages = nn.Sequential()
        channels, index, total = stem, 0, sum(stage.blocks for stage in stages)
        for stage in stages:
            blocks = nn.Sequential()
            for number in range(stage.blocks):
                stride = stage.stride if number == 0 else 1
                drop = options.stochastic_depth * index / total
                blocks.append(block(channels, stage, stride, drop))
                channels, index = stage.channels, index + 1
            self.stages.append(blocks)
        self.head: nn.Module = nn.Identity()
        if head is not None:
            self.head = ConvNormAct(channels, head, options, activation)
            channels = head
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(options.dropout)
        self.fc = nn.Conv2d(channels, options.num_classes, 1)
        self.bn_fc = logit_norm(options.num_classes, options.norm_logits)
        self._initialise()

    def _initialise(self) -> None:
        """Normal weights of variance `2 / fan_out` per group, uniform ones in the classifier."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        bound = 1 / math.sqrt(self.fc.out_channels)
        nn.init.uniform_(self.fc.weight, -bound, bound)

    def stage_blocks(self) -> list[list[str]]:
        """Return the names of the blocks of every stage, in order."""
        return [
            [f"stages.{stage}.{block}" for block, _ in blocks.named_children()]
            for stage, blocks in self.stages.named_children()
        ]

    def run_stem(self, images: Tensor) -> Tensor:
        """Images `[N, C_in, H, W]` to the input of the first stage."""
        x: Tensor = self.stem(images)
        return x

    def run_stage(self, number: int, x: Tensor) -> Tensor:
        """Output of a stage, by its module where all blocks run: hooks on it are called."""
        if self.kept is not None:
            return super().run_stage(number, x)
        y: Tensor = self.stages[number](x)
        return y

    def classify(self, features: Tensor) -> Tensor:
        """Output of the last stage to logits `[N, classes]`."""
        x = self.avgpool(self.head(features))
        logits: Tensor = self.bn_fc(self.fc(self.dropout(x)))
        return logits.flatten(1)
