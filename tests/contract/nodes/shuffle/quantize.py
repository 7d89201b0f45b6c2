from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from mulfree.nodes.fusing import FusedOp, Spellings

from . import Shuffle

if TYPE_CHECKING:
    from mulfree.quantization.fusion import Fusion
    from mulfree.quantization.graph_builder import GraphBuilder

TARGETS = (nn.ChannelShuffle,)
SPELLINGS: Spellings = {torch.channel_shuffle: (nn.ChannelShuffle, ("groups",))}


@dataclass(frozen=True, kw_only=True)
class FusedShuffle(FusedOp):
    groups: int

    def compute(self, x: Tensor, *others: Tensor) -> Tensor:
        return torch.channel_shuffle(x, self.groups)

    def lower(self, builder: GraphBuilder) -> None:
        builder.append(Shuffle(**builder.fields(self), groups=self.groups))


def fuse(fusion: Fusion, node: fx.Node, module: nn.ChannelShuffle) -> None:
    fusion.add(FusedShuffle, node, fusion.source(node), groups=module.groups)
