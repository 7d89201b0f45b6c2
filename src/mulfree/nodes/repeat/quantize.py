"""Quantisation of nearest-neighbour upsampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, fx, nn
from torch.nn import functional

from mulfree.nodes.fusing import FusedOp, Spellings
from mulfree.nodes.repeat import Repeat

if TYPE_CHECKING:
    from mulfree.quantization.fusion import Fusion
    from mulfree.quantization.graph_builder import GraphBuilder

TARGETS = (nn.Upsample,)
SPELLINGS: Spellings = dict.fromkeys(
    (functional.interpolate, functional.upsample),
    (
        nn.Upsample,
        ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class FusedRepeat(FusedOp):
    """Nearest-neighbour upsampling: each position repeated `factor` times in both directions."""

    equivariant = True

    factor: int

    def compute(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the upsampled map."""
        return functional.interpolate(x, scale_factor=float(self.factor))

    def lower(self, builder: GraphBuilder) -> None:
        """Append the node."""
        builder.append(Repeat(**builder.fields(self), factor=self.factor))


def fuse(fusion: Fusion, node: fx.Node, module: nn.Upsample) -> None:
    """Fuse a nearest-neighbour upsampling by one integer."""
    source = fusion.source(node)
    fusion.require_map(node, source)
    before, after = source.meta["shape"][1:], node.meta["shape"][1:]
    factor: int = after[0] // before[0]
    # With integer factors both modes choose the same pixels.
    nearest = module.mode in ("nearest", "nearest-exact")
    if not nearest or after != tuple(factor * s for s in before):
        got = f"{before} to {after}, {module.mode}"
        fusion.refuse(node, "upsample by repeating pixels", got)
    fusion.add(FusedRepeat, node, source, factor=factor)
