"""Geometry of traced pooling, upsampling and padding, as fused operations support it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import fx, nn

from mulfree.operators.window import pair
from mulfree.quantization.fused_ops import AvgPool, FusedOp, Pair, PoolWindow, Upsample
from mulfree.quantization.trace import place, unsupported


def pool_window(node: fx.Node, module: nn.MaxPool2d) -> PoolWindow:
    """Window of a max pooling.

    Raises:
        ConfigError: It has a dilation, `ceil_mode` or `return_indices`.
    """
    path = place(node)
    if pair(path, "dilation", module.dilation, 1) != (1, 1) or module.ceil_mode:
        unsupported(node, "have max pooling without dilation and ceil_mode", module)
    if module.return_indices:
        unsupported(node, "have max pooling without return_indices", module)
    return PoolWindow(
        kernel=pair(path, "kernel_size", module.kernel_size, 1),
        stride=pair(path, "stride", module.stride, 1),
        padding=pair(path, "padding", module.padding, 0),
    )


def average_window(node: fx.Node, module: nn.AvgPool2d) -> dict[str, Pair]:
    """Kernel and stride of an average pooling.

    Raises:
        ConfigError: It has padding, `ceil_mode` or a `divisor_override`.
    """
    path = place(node)
    plain = pair(path, "padding", module.padding, 0) == (0, 0) and not module.ceil_mode
    if not plain or module.divisor_override is not None:
        unsupported(node, "have average pooling of whole windows without padding", module)
    return {
        "kernel": pair(path, "kernel_size", module.kernel_size, 1),
        "stride": pair(path, "stride", module.stride, 1),
    }


def adaptive_pooling(node: fx.Node, source: fx.Node) -> tuple[type[FusedOp], dict[str, Any]] | None:
    """Class and fields of an adaptive average pooling; None if it changes nothing.

    Raises:
        ConfigError: Its windows differ in size or stride.
    """
    # A mean without keepdim lacks the sides of 1.
    before, after = source.meta["shape"][1:], (*node.meta["shape"], 1, 1)[1:3]
    windows = [_regular(*sizes) for sizes in zip(before, after, strict=True)]
    factors = {count // size for size, count in zip(before, after, strict=True)}
    if before == after:
        return None
    if windows[0] and windows[1]:
        kernel, stride = zip(*windows, strict=True)
        return AvgPool, {"kernel": kernel, "stride": stride}
    if len(factors) == 1 and all(c % size == 0 for size, c in zip(before, after, strict=True)):
        return Upsample, {"factor": factors.pop()}
    unsupported(node, "have average pooling with windows of one size", f"{before} to {after}")


def _regular(size: int, count: int) -> Pair | None:
    """Window and stride of adaptive pooling from `size` to `count` pixels if equal, else None."""
    starts = [i * size // count for i in range(count)]
    ends = [-(-(i + 1) * size // count) for i in range(count)]
    sizes = {end - start for start, end in zip(starts, ends, strict=True)}
    strides = {after - before for before, after in pairwise(starts)} or {1}
    if len(sizes) != 1 or len(strides) != 1 or strides == {0}:
        return None
    return sizes.pop(), strides.pop()


def upsampling_factor(node: fx.Node, source: fx.Node, module: nn.Upsample) -> int:
    """Factor of a nearest-neighbour upsampling.

    Raises:
        ConfigError: It interpolates, or the factor is not one integer.
    """
    before, after = source.meta["shape"][1:], node.meta["shape"][1:]
    factor: int = after[0] // before[0]
    # With integer factors both modes choose the same pixels.
    nearest = module.mode in ("nearest", "nearest-exact")
    if not nearest or after != tuple(factor * s for s in before):
        requirement = "upsample by repeating pixels"
        unsupported(node, requirement, f"{before} to {after}, {module.mode}")
    return factor


def zero_border(node: fx.Node, module: nn.ConstantPad2d) -> tuple[int, ...]:
    """Border of a zero padding: left, right, top, bottom.

    Raises:
        ConfigError: It crops, or pads with another number.
    """
    border = module.padding
    if module.value or min(border) < 0:
        unsupported(node, "pad rows and columns with zeros", f"{border} of {module.value}")
    return border


def class_of(module: nn.Module) -> str:
    """Name of a module's class, short for classes of `torch.nn`."""
    kind = type(module)
    name = kind.__qualname__
    return name if getattr(nn, name, None) is kind else f"{kind.__module__}.{name}"
