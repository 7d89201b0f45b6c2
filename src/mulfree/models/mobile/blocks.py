"""Block tables and blocks of the mobile families.

References:
    Depthwise separable layers: arXiv 1704.04861. Inverted residuals: arXiv 1801.04381; with
    squeeze-and-excitation (MBConv): arXiv 1905.11946.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from mulfree.models.mobile.layers import ConvNormAct, SqueezeExcitation, StochasticDepth
from mulfree.models.mobile.options import MobileOptions

_SQUEEZE = 4


@dataclass(frozen=True)
class Stage:
    """Row of a block table: equal blocks; the first has the stride.

    Attributes:
        expansion: Ratio of the inner channels to the input channels.
        kernel: Side of the depthwise kernel.
        stride: Stride of the first block.
        channels: Output channels.
        blocks: Number of blocks.
    """

    expansion: int
    kernel: int
    stride: int
    channels: int
    blocks: int

    def scaled(self, options: MobileOptions, *, deepens: bool = True) -> Stage:
        """Row with channels and, if it `deepens`, number of blocks scaled by the options."""
        return replace(
            self,
            channels=options.scaled(self.channels),
            blocks=options.repeated(self.blocks) if deepens else self.blocks,
        )


class InvertedResidual(nn.Module):
    """Expansion, depthwise layer, squeeze-and-excitation and projection, and a shortcut.

    An expansion of 1 has no expansion layer. The shortcut exists for stride 1 and equal numbers of
    channels.

    Args:
        in_channels: Channels of the input.
        stage: Row of the block table, scaled.
        stride: Stride of the depthwise layer.
        options: Options of the network.
        activation: Activation after expansion and depthwise layer.
        squeeze: Whether it has squeeze-and-excitation.
        drop: Probability of skipping the block in training.
    """

    def __init__(
        self,
        in_channels: int,
        stage: Stage,
        stride: int,
        options: MobileOptions,
        activation: type[nn.Module],
        *,
        squeeze: bool,
        drop: float,
    ) -> None:
        super().__init__()
        inner = in_channels * stage.expansion
        self.expand: nn.Module = nn.Identity()
        if stage.expansion != 1:
            self.expand = ConvNormAct(in_channels, inner, options, activation)
        self.depthwise = ConvNormAct(
            inner, inner, options, activation, kernel=stage.kernel, stride=stride, groups=inner
        )
        self.se: nn.Module = nn.Identity()
        if squeeze:
            self.se = SqueezeExcitation(inner, max(1, in_channels // _SQUEEZE))
        self.project = ConvNormAct(inner, stage.channels, options, None)
        self.has_shortcut = stride == 1 and in_channels == stage.channels
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to `[N, channels, ceil(H / stride), ceil(W / stride)]`."""
        out: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        return self.drop(out) + x if self.has_shortcut else out


class DepthwiseSeparable(nn.Module):
    """Depthwise and pointwise layer, each followed by the activation (MobileNetV1)."""

    def __init__(
        self,
        in_channels: int,
        stage: Stage,
        stride: int,
        options: MobileOptions,
        activation: type[nn.Module],
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels,
            in_channels,
            options,
            activation,
            kernel=stage.kernel,
            stride=stride,
            groups=in_channels,
        )
        self.project = ConvNormAct(in_channels, stage.channels, options, activation)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, H, W]` to `[N, channels, ceil(H / stride), ceil(W / stride)]`."""
        out: Tensor = self.project(self.depthwise(x))
        return out
