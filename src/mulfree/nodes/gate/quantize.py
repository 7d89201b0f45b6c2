"""Quantisation of products of a map and one number for each channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from mulfree.nodes.fusing import PRODUCTS, RectifiedOp, multiplies_tensors, operands_of
from mulfree.nodes.gate import LARGEST_PRODUCT, Gate

if TYPE_CHECKING:
    from mulfree.quantization.fusion import Fusion
    from mulfree.quantization.graph_builder import GraphBuilder

# Sums below 2**30 take the kernel with 16-bit products, with a factor of at least 13 bits.
_SUM_BITS = 30
_EXPANSIONS = ("expand", "expand_as", torch.broadcast_to, "broadcast_to")
TARGETS = (*PRODUCTS, *_EXPANSIONS)


@dataclass(frozen=True, kw_only=True)
class FusedGate(RectifiedOp):
    """Product of a map and a gate.

    Attributes:
        gate: Name of the value `[C, 1, 1]`.
    """

    gate: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The map and the gate."""
        return self.input, self.gate

    def unit(self, *sources: float) -> float:
        """Return the product of both."""
        first, second = sources
        return first * second

    def compute(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the product after the ReLU, if there is one."""
        (gate,) = others
        return self.rectified(x * gate)

    def lower(self, builder: GraphBuilder) -> None:
        """Append the node."""
        source, gate = map(builder.qparams_of, self.inputs)
        target = builder.qparams_of(self.output)
        fields = builder.fields(self)
        factor = source.scale * gate.scale / target.scale
        fixed = builder.fixed_point(
            [factor], [LARGEST_PRODUCT], float(target.zero_point), self.path, sum_bits=_SUM_BITS
        )
        low, high = self.limits(target)
        builder.append(
            Gate(
                **fields,
                gate=self.gate,
                multiplier=int(fixed.factors[0]),
                offset=int(fixed.offset),
                shift=fixed.shift,
                clamp_min=low,
                clamp_max=high,
            )
        )


def matches(fusion: Fusion, node: fx.Node, module: nn.Module | None) -> bool:
    """Return False for a product of a tensor and a number."""
    return node.target in _EXPANSIONS or multiplies_tensors(node)


def fuse(fusion: Fusion, node: fx.Node, module: nn.Module | None) -> None:
    """Fuse a product in which one operand has one number for each channel of the other."""
    if node.target in _EXPANSIONS:
        fusion.defer(node, "expand tensors in products only")
        return
    operands = [_unexpanded(operand) for operand in operands_of(node) or ()]
    names = [fusion.value(operand, node) for operand in operands]
    shapes = [fusion.shapes[name] for name in names]
    maps = all(item.meta["shape"] == shape for item, shape in zip(operands, shapes, strict=True))
    for (name, shape), (gate, sides) in _both_ways(list(zip(names, shapes, strict=True))):
        if maps and sides == (shape[0], 1, 1) and shape == node.meta["shape"]:
            fusion.begin(node, fusion.new(FusedGate, node, name, gate=gate))
            return
    got = " and ".join(str(list(operand.meta["shape"])) for operand in operands)
    fusion.refuse(node, "multiply maps by one number for each channel", got)


def _both_ways(pair: list[Any]) -> tuple[list[Any], list[Any]]:
    return pair, pair[::-1]


def _unexpanded(operand: Any) -> Any:
    """Return the tensor that an operand expands."""
    while operand.target in _EXPANSIONS:
        operand = operand.args[0]
    return operand
