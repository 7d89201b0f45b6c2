"""Quantisation of concatenation by channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from mulfree.nodes.concat import Concat
from mulfree.nodes.fusing import NUMPY, FusedOp

if TYPE_CHECKING:
    from mulfree.quantization.fusion import Fusion
    from mulfree.quantization.graph_builder import GraphBuilder

TARGETS = (torch.cat, torch.concat, torch.concatenate)


@dataclass(frozen=True, kw_only=True)
class FusedConcat(FusedOp):
    """Concatenation by channels.

    Attributes:
        others: Names of the values after the first.
    """

    rescales = True

    others: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """All values, in order."""
        return self.input, *self.others

    def compute(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the channels of all values."""
        return torch.cat((x, *others), 1)

    def lower(self, builder: GraphBuilder) -> None:
        """Append the node, after a copy of each value with another scale."""
        target = builder.qparams_of(self.output)
        fields = builder.fields(self)
        names = [
            name
            if builder.qparams_of(name) == target
            else builder.requantize(name, f"{name}.{self.output}", target)
            for name in self.inputs
        ]
        order = np.arange(self.shape[0], dtype=np.int32)
        fields |= {"input": names[0]}
        builder.append(Concat(**fields, others=tuple(names[1:]), order=order))


def fuse(fusion: Fusion, node: fx.Node, module: nn.Module | None) -> None:
    """Fuse a concatenation of maps of one size."""
    given = {NUMPY.get(name, name): value for name, value in node.kwargs.items()}
    values: Any = node.args[0] if node.args else given.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else given.get("dim", 0)
    rank = len(node.meta["shape"]) + 1
    if not isinstance(values, (tuple, list)) or dim not in (1, 1 - rank):
        fusion.refuse(node, "concatenate by channels (dim 1)", f"dim {dim}")
    names = [fusion.value(value, node) for value in values]
    shapes = [fusion.shapes[name] for name in names]
    flat = all(len(value.meta["shape"]) == 1 for value in values)
    whole = flat or all(v.meta["shape"] == s for v, s in zip(values, shapes, strict=True))
    if not whole or len({shape[1:] for shape in shapes}) != 1:
        fusion.refuse(node, "concatenate maps of one size", " and ".join(map(str, shapes)))
    shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    op = fusion.new(FusedConcat, node, names[0], shape=shape, others=tuple(names[1:]))
    fusion.close(node, op)
