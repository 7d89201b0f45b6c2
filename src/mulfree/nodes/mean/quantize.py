"""Quantisation of average pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from mulfree.nodes.fusing import NUMPY, FusedOp, Spellings, source_of
from mulfree.nodes.mean import Mean
from mulfree.nodes.sliding import Pair

if TYPE_CHECKING:
    from mulfree.quantization.fusion import Fusion
    from mulfree.quantization.graph_builder import GraphBuilder

TARGETS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, torch.mean, "mean")
SPELLINGS: Spellings = {
    functional.avg_pool2d: (
        nn.AvgPool2d,
        (
            *("kernel_size", "stride", "padding", "ceil_mode"),
            *("count_include_pad", "divisor_override"),
        ),
    ),
    functional.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
}


@dataclass(frozen=True, kw_only=True)
class FusedMean(FusedOp):
    """Average pooling.

    Attributes:
        kernel: Rows, columns.
        stride: Rows, columns.
    """

    rescales = True
    equivariant = True

    kernel: Pair
    stride: Pair

    def unit(self, *sources: float) -> float:
        """Return a fraction: the integer mean of n numbers is their sum; the scale holds 1 / n."""
        return sources[0] / math.prod(self.kernel)

    def compute(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the mean of every window."""
        return functional.avg_pool2d(x, self.kernel, self.stride)

    def lower(self, builder: GraphBuilder) -> None:
        """Append the node."""
        source, target = builder.qparams_of(self.input), builder.qparams_of(self.output)
        fields = builder.fields(self)
        taps = math.prod(self.kernel)
        factor = source.scale / (taps * target.scale)
        offset = target.zero_point - factor * taps * source.zero_point
        fixed = builder.fixed_point([factor], [taps * 255], offset, self.path)
        builder.append(
            Mean(
                **fields,
                kernel=self.kernel,
                stride=self.stride,
                multiplier=int(fixed.factors[0]),
                offset=int(fixed.offset),
                shift=fixed.shift,
                clamp_min=0,
                clamp_max=target.qmax,
            )
        )


def fuse(fusion: Fusion, node: fx.Node, module: nn.Module | None) -> None:
    """Fuse an average pooling with windows of one size, without padding."""
    if module is None and not _is_map_mean(node):
        fusion.refuse_unknown(node)
    source = fusion.source(node)
    if isinstance(module, nn.AvgPool2d):
        fusion.add(FusedMean, node, source, **_windows(fusion, node, module))
        return
    fusion.require_map(node, source)
    # A mean without keepdim lacks the sides of 1.
    before, after = source.meta["shape"][1:], (*node.meta["shape"], 1, 1)[1:3]
    windows = [_regular(*sizes) for sizes in zip(before, after, strict=True)]
    factors = {count // size for size, count in zip(before, after, strict=True)}
    if before == after:
        fusion.identity(node, source)
    elif windows[0] and windows[1]:
        kernel, stride = zip(*windows, strict=True)
        fusion.add(FusedMean, node, source, kernel=kernel, stride=stride)
    elif len(factors) == 1 and all(c % s == 0 for s, c in zip(before, after, strict=True)):
        fusion.fuse_as(node, nn.Upsample(after))
    else:
        requirement = "have average pooling with windows of one size"
        fusion.refuse(node, requirement, f"{before} to {after}")


def _is_map_mean(node: fx.Node) -> bool:
    """Return True for a mean over rows and columns."""
    given: dict[str, Any] = dict(zip(("dim", "keepdim"), node.args[1:], strict=False))
    given |= {NUMPY.get(k, k): value for k, value in node.kwargs.items() if k != "input"}
    source, dims = source_of(node), given.pop("dim", ())
    given.pop("keepdim", None)
    if given or not isinstance(source, fx.Node) or not isinstance(dims, (tuple, list)):
        return False
    rank = len(source.meta["shape"]) + 1
    return rank == 4 and {dim % rank for dim in dims} == {2, 3}


def _windows(fusion: Fusion, node: fx.Node, module: nn.AvgPool2d) -> dict[str, Pair]:
    plain = fusion.pair(node, "padding", module.padding, 0) == (0, 0) and not module.ceil_mode
    if not plain or module.divisor_override is not None:
        fusion.refuse(node, "have average pooling of whole windows without padding", module)
    return {
        "kernel": fusion.pair(node, "kernel_size", module.kernel_size),
        "stride": fusion.pair(node, "stride", module.stride),
    }


def _regular(size: int, count: int) -> Pair | None:
    """Return window and stride of adaptive pooling if all windows have them, else None."""
    starts = [i * size // count for i in range(count)]
    ends = [-(-(i + 1) * size // count) for i in range(count)]
    sizes = {end - start for start, end in zip(starts, ends, strict=True)}
    strides = {after - before for before, after in pairwise(starts)} or {1}
    if len(sizes) != 1 or len(strides) != 1 or strides == {0}:
        return None
    return sizes.pop(), strides.pop()
