"""Blocks and network shared by the residual families for 32 and 224 pixels.

Modules are named as in torchvision and in the code of the AdderNet authors: weights are exchanged
by name.

References:
    Residual networks: arXiv 1512.03385. With adders: arXiv 1912.13200.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mulfree.models.parts import logit_norm
from mulfree.models.registry import ScalableOptions
from mulfree.models.staged import StagedNetwork


class BasicBlock(nn.Module):
    """Two 3x3 layers and a shortcut: `relu(bn2(conv2(relu(bn1(conv1(x))))) + downsample(x))`."""

    expansion = 1
    last_scale = "bn2.weight"

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to `[N, channels, H / stride, W / stride]`."""
        out: Tensor = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = self.relu2(out + self.downsample(x))
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 layers of 4 times the channels, and a shortcut."""

    expansion = 4
    last_scale = "bn3.weight"

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to `[N, 4 channels, H / stride, W / stride]`."""
        out: Tensor = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out = self.relu3(out + self.downsample(x))
        return out


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Identity for equal shapes, otherwise a 1x1 layer with batch norm ("option B")."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class ResidualNetwork(StagedNetwork):
    """A stem, stages of blocks, global average pooling and a classifier.

    Args:
        block: Kind of block.
        depths: Blocks of each stage, before the options' depth; all stages except the first start
            with stride 2.
        channels: Channels of each stage, before the options' width and the block's expansion.
        options: Sizes common to all models.
        small_stem: A 3x3 layer, instead of a 7x7 layer and pooling that divide the size by 4.
        classifier_bias: Whether the classifier has a bias.
        zero_init_residual: Whether each block starts as its shortcut alone (arXiv 1706.02677).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        channels: Sequence[int],
        *,
        options: ScalableOptions,
        small_stem: bool,
        classifier_bias: bool,
        zero_init_residual: bool,
    ) -> None:
        super().__init__()
        self.in_channels = options.in_channels
        width = options.scaled(channels[0])
        if small_stem:
            self.conv1 = nn.Conv2d(self.in_channels, width, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(self.in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        self._layers = [f"layer{index + 1}" for index in range(len(depths))]
        for stage, depth, count in zip(self._layers, depths, channels, strict=True):
            blocks: list[BasicBlock | Bottleneck] = []
            for index in range(options.repeated(depth)):
                stride = 2 if index == 0 and stage != "layer1" else 1
                blocks.append(block(width, options.scaled(count), stride))
                width = options.scaled(count) * block.expansion
                if zero_init_residual:
                    nn.init.zeros_(blocks[-1].get_parameter(block.last_scale))
            self.add_module(stage, nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(width, options.num_classes, 1, bias=classifier_bias)
        self.bn2 = logit_norm(options.num_classes, options.norm_logits)

    def stage_blocks(self) -> list[list[str]]:
        """Return the names of the blocks of every stage, in order."""
        layers = ((name, self.get_submodule(name)) for name in self._layers)
        return [
            [f"{name}.{block}" for block, _ in layer.named_children()] for name, layer in layers
        ]

    def run_stem(self, images: Tensor) -> Tensor:
        """Images `[N, C_in, H, W]` to the input of the first stage."""
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return x

    def run_stage(self, number: int, x: Tensor) -> Tensor:
        """Output of a stage, by its module where all blocks run: hooks on it are called."""
        if self.kept is not None:
            return super().run_stage(number, x)
        y: Tensor = self.get_submodule(self._layers[number])(x)
        return y

    def classify(self, features: Tensor) -> Tensor:
        """Output of the last stage to logits `[N, classes]`."""
        logits: Tensor = self.bn2(self.fc(self.avgpool(features)))
        return logits.flatten(1)
