"""Layers shared by the mobile families.

References:
    Squeeze-and-excitation: arXiv 1709.01507. Stochastic depth: arXiv 1603.09382. Padding:
    efficientnet_model.py of github.com/tensorflow/tpu.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mulfree.models.mobile.options import MobileOptions


class SamePad2d(nn.Module):
    """Zero padding "SAME" of TensorFlow for a layer of padding 0.

    Per axis `max((ceil(size / stride) - 1) * stride + kernel - size, 0)` zeros, the larger half at
    the right and bottom.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, C, H + total, W + total]`."""
        rows, columns = (self._total(size) for size in x.shape[2:])
        frame = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return functional.pad(x, frame)

    def _total(self, size: int) -> int:
        steps = (size + self.stride - 1) // self.stride - 1
        return max(steps * self.stride + self.kernel - size, 0)

    def extra_repr(self) -> str:
        """Arguments, for `repr`."""
        return f"kernel={self.kernel}, stride={self.stride}"


class ConvNormAct(nn.Sequential):
    """Padding, convolution without bias, batch norm and activation."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        options: MobileOptions,
        activation: type[nn.Module] | None,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        # With stride 1 and an odd kernel both paddings are equal.
        padding = kernel // 2
        if options.same_padding and stride > 1:
            self.pad = SamePad2d(kernel, stride)
            padding = 0
        self.conv = nn.Conv2d(
            in_channels, channels, kernel, stride, padding, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(channels, options.bn_eps, options.bn_momentum)
        if activation is not None:
            self.act = activation()


class SqueezeExcitation(nn.Module):
    """Gate of the channels: `x * sigmoid(expand(silu(reduce(mean(x)))))`."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.SiLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape."""
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return x * gate


class StochasticDepth(nn.Module):
    """Drop a whole image's branch with a probability in training, else divide by the survival's.

    Args:
        rate: Probability of dropping.

    References:
        arXiv 1603.09382; the division as in the code of arXiv 1905.11946.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape."""
        if not self.training or self.rate == 0:
            return x
        survival = 1 - self.rate
        kept = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(survival)
        return x * (kept / survival)

    def extra_repr(self) -> str:
        """Arguments, for `repr`."""
        return f"rate={self.rate:g}"
