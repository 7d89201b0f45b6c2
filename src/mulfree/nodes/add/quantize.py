"""Quantisation of sums of multiples of two values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from mulfree.nodes.add import Add
from mulfree.nodes.fusing import (
    DIFFERENCES,
    NEGATIONS,
    PRODUCTS,
    QUOTIENTS,
    SUMS,
    RectifiedOp,
    multiplies_tensors,
    source_of,
    times,
)

if TYPE_CHECKING:
    from mulfree.quantization.fusion import Fusion
    from mulfree.quantization.graph_builder import GraphBuilder

# Factor of the second operand, by operation.
_SIGNS: dict[object, float] = {
    **dict.fromkeys(SUMS, 1.0),
    **dict.fromkeys(DIFFERENCES, -1.0),
}
TARGETS = (*_SIGNS, *PRODUCTS, *QUOTIENTS, *NEGATIONS)


@dataclass(frozen=True, kw_only=True)
class FusedAdd(RectifiedOp):
    """Sum of two values.

    Attributes:
        other: Name of the second value.
        factors: Factors of the two values.
    """

    equivariant = True

    other: str
    factors: tuple[float, float] = (1.0, 1.0)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Both values."""
        return self.input, self.other

    def compute(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the sum after the ReLU."""
        first, second = self.factors
        (other,) = others
        return self.rectified(times(first, x) + times(second, other))

    def lower(self, builder: GraphBuilder) -> None:
        """Append the node."""
        target = builder.qparams_of(self.output)
        fields = builder.fields(self)
        operands = [builder.qparams_of(name) for name in self.inputs]
        factors = [
            builder.checked_factor(factor, self.path) * operand.scale / target.scale
            for factor, operand in zip(self.factors, operands, strict=True)
        ]
        offset = float(target.zero_point)
        for factor, operand in zip(factors, operands, strict=True):
            offset -= factor * operand.zero_point
        fixed = builder.fixed_point(factors, [255, 255], offset, self.path)
        low, high = self.limits(target)
        builder.append(
            Add(
                **fields,
                other=self.other,
                multiplier=int(fixed.factors[0]),
                other_multiplier=int(fixed.factors[1]),
                offset=int(fixed.offset),
                shift=fixed.shift,
                clamp_min=low,
                clamp_max=high,
            )
        )


def matches(fusion: Fusion, node: fx.Node, module: nn.Module | None) -> bool:
    """Return False for a product of two tensors."""
    return not multiplies_tensors(node)


def fuse(fusion: Fusion, node: fx.Node, module: nn.Module | None) -> None:
    """Fuse a sum, or a multiple of a sum; the sum that reads any other multiple resolves it."""
    if node.target in _SIGNS:
        _sum(fusion, node)
        return
    if _multiple(node) is None:
        fusion.refuse_unknown(node)
    operand, factor = _multiplied(fusion, node, 1.0)
    op = fusion.growing(operand)
    if isinstance(op, FusedAdd) and not op.relu:
        assert isinstance(operand, fx.Node)
        first, second = op.factors
        fusion.grow(operand, node, factors=(factor * first, factor * second))
    else:
        fusion.defer(node, "use multiples in sums only")


def _sum(fusion: Fusion, node: fx.Node) -> None:
    (one, first), (other, second) = operands = _operands(fusion, node)
    # A multiple of the sum is not a layer's: its factors come from its batch norm.
    multiplied = [_multiple(user) is not None for user in node.users] == [True]
    value = None
    if one is not other and not multiplied:
        value = fusion.add_residual(node, operands)
    if value is None:
        value, last = (fusion.value(operand, node) for operand in (one, other))
        shape = fusion.shapes[last]
        op = fusion.new(FusedAdd, node, value, shape=shape, other=last, factors=(first, second))
        fusion.begin(node, op)
    shapes = [operand.meta["shape"] for operand in node.all_input_nodes]
    same = all(shape == node.meta["shape"] for shape in shapes)
    if not same or fusion.shapes[value] != fusion.shape(node):
        fusion.refuse(node, "add values of one shape", " and ".join(map(str, shapes)))


def _operands(fusion: Fusion, node: fx.Node) -> list[tuple[object, float]]:
    """Return the summands with their factors."""
    given = dict(node.kwargs)
    one = source_of(node)
    other = node.args[1] if len(node.args) > 1 else given.get("other")
    alpha = given.get("alpha", 1)
    if set(given) - {"input", "other", "alpha"} or not isinstance(alpha, (int, float)):
        fusion.refuse_unknown(node, f"arguments {', '.join(given)}")
    return [
        _multiplied(fusion, one, 1.0),
        _multiplied(fusion, other, _SIGNS[node.target] * alpha),
    ]


def _multiple(node: fx.Node) -> tuple[fx.Node, float] | None:
    """Return operand and factor of a multiplication by a number; None for other operations."""
    target: Any = node.target
    if node.op not in ("call_function", "call_method") or node.kwargs:
        return None
    match node.args:
        case (fx.Node() as operand,) if target in NEGATIONS:
            return operand, -1.0
        case (fx.Node() as operand, int() | float() as factor) if target in PRODUCTS:
            return operand, float(factor)
        case (int() | float() as factor, fx.Node() as operand) if target in PRODUCTS:
            return operand, float(factor)
        case (fx.Node() as operand, int() | float() as divisor) if target in QUOTIENTS and divisor:
            return operand, 1.0 / divisor
    return None


def _multiplied(fusion: Fusion, operand: object, factor: float) -> tuple[object, float]:
    """Return the operand of nested multiples without a value, and the product of the factors."""
    while isinstance(operand, fx.Node) and not fusion.has_value(operand):
        found = _multiple(operand)
        if found is None:
            break
        operand, factor = found[0], factor * found[1]
    return operand, factor
