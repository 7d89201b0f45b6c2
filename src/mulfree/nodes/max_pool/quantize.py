"""Quantisation of max pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from mulfree.nodes.fusing import OrderOp, Spellings
from mulfree.nodes.max_pool import MaxPool
from mulfree.nodes.sliding import Pair

if TYPE_CHECKING:
    from mulfree.quantization.fusion import Fusion
    from mulfree.quantization.graph_builder import GraphBuilder

TARGETS = (nn.MaxPool2d,)
SPELLINGS: Spellings = dict.fromkeys(
    (functional.max_pool2d, torch.max_pool2d),
    (
        nn.MaxPool2d,
        ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class FusedMaxPool(OrderOp):
    """Max pooling.

    Attributes:
        kernel: Rows, columns.
        stride: Rows, columns.
        padding: Rows above and below, columns left and right; never the maximum.
    """

    kernel: Pair
    stride: Pair
    padding: Pair

    def compute(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the maximum of every window."""
        return functional.max_pool2d(x, self.kernel, self.stride, self.padding)

    def lower(self, builder: GraphBuilder, reversed: NDArray[np.bool_] | None = None) -> None:
        """Append the node, with the minimum in reversed channels."""
        if reversed is None:
            reversed = np.zeros(self.shape[0], np.bool_)
        builder.append(
            MaxPool(
                **builder.fields(self),
                kernel=self.kernel,
                stride=self.stride,
                padding=self.padding,
                minimum=reversed.astype(np.uint8),
            )
        )


def fuse(fusion: Fusion, node: fx.Node, module: nn.MaxPool2d) -> None:
    """Fuse a max pooling without dilation, `ceil_mode` and `return_indices`."""
    source = fusion.source(node)
    if fusion.pair(node, "dilation", module.dilation) != (1, 1) or module.ceil_mode:
        fusion.refuse(node, "have max pooling without dilation and ceil_mode", module)
    if module.return_indices:
        fusion.refuse(node, "have max pooling without return_indices", module)
    fusion.add(
        FusedMaxPool,
        node,
        source,
        kernel=fusion.pair(node, "kernel_size", module.kernel_size),
        stride=fusion.pair(node, "stride", module.stride),
        padding=fusion.pair(node, "padding", module.padding, 0),
    )
