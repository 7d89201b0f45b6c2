"""Quantisation of zero padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.nn import functional

from mulfree.nodes.fusing import FusedOp, Spellings
from mulfree.nodes.pad import Pad

if TYPE_CHECKING:
    from mulfree.quantization.fusion import Fusion
    from mulfree.quantization.graph_builder import GraphBuilder
    from mulfree.quantization.qparams import QuantParams


def _module(pad: Any, mode: str = "constant", value: float | None = None) -> nn.Module | None:
    if mode != "constant" or len(pad) not in (2, 4):
        return None
    return nn.ConstantPad2d((*pad, 0, 0)[:4], value or 0.0)


TARGETS = (nn.ConstantPad2d,)
SPELLINGS: Spellings = {functional.pad: (_module, ("pad", "mode", "value"))}


@dataclass(frozen=True, kw_only=True)
class FusedPad(FusedOp):
    """Zero padding.

    Attributes:
        border: Left, right, top, bottom.
    """

    equivariant = True

    border: tuple[int, int, int, int]

    @property
    def margin(self) -> tuple[int, int, int, int]:
        """The border."""
        return self.border

    def compute(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the padded map."""
        return functional.pad(x, self.border)

    def lower(self, builder: GraphBuilder) -> None:
        """Append the node."""
        builder.append(Pad(**builder.fields(self), **_sides(self.border)))


def fuse(fusion: Fusion, node: fx.Node, module: nn.ConstantPad2d) -> None:
    """Fuse a padding with zeros that crops nothing."""
    source = fusion.source(node)
    border = module.padding
    if module.value or min(border) < 0:
        got = f"{border} of {module.value}"
        fusion.refuse(node, "pad rows and columns with zeros", got)
    fusion.add(FusedPad, node, source, border=border)


def padded(builder: GraphBuilder, source: str, qparams: QuantParams, border: Sequence[int]) -> str:
    """Append a border of zeros to a value: left, right, top, bottom; return the name."""
    left, right, top, bottom = border
    name = builder.unique(f"{source}.padded")
    channels, rows, columns = builder.values[source].shape
    builder.declare(name, (channels, rows + top + bottom, columns + left + right), qparams)
    builder.append(Pad(name=name, input=source, output=name, **_sides(border)))
    return name


def _sides(border: Sequence[int]) -> dict[str, Any]:
    return dict(zip(("left", "right", "top", "bottom"), border, strict=True))
