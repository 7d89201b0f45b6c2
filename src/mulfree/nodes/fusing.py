"""Fused operations of a network to be quantised: bases that the facets `quantize` share.

A fused operation covers everything between two stored values, as one node of the integer network
does. It computes in floating point, for calibration and training, and appends its node.

A facet `quantize` has:
    TARGETS: Classes of modules, functions, and names of tensor methods that it recognises. A facet
        without them recognises nothing; other facets and layers append its node.
    ELEMENTWISE: Optional; classes among the targets, without parameters, that compute every number
        by itself.
    SPELLINGS: Optional; for each function or method that equals a module, a callable that makes
        the module, or None if it cannot, and the names of the arguments after the input.
    matches(fusion, node, module): Optional; False for an operation in TARGETS that is left to the
        next facet, or to the layers.
    fuse(fusion, node, module): Fuse a traced operation; `module` is the module recognised, None for
        a function or method in TARGETS.

Legend: N images, C channels, H W rows and columns.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from mulfree.nodes.node import Shape

if TYPE_CHECKING:
    from mulfree.quantization.graph_builder import GraphBuilder
    from mulfree.quantization.qparams import QuantParams

Spellings: TypeAlias = Mapping[object, tuple[Callable[..., nn.Module | None], tuple[str, ...]]]

NUMPY = {"axis": "dim", "keepdims": "keepdim"}
"""Torch's names of arguments by numpy's names."""
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
DIFFERENCES = (operator.sub, torch.sub, torch.subtract, "sub", "sub_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_")
QUOTIENTS = (operator.truediv, torch.div, torch.divide, torch.true_divide, "div", "div_")
NEGATIONS = (operator.neg, torch.neg, torch.negative, "neg", "neg_")


def source_of(node: fx.Node) -> object:
    """Return the first operand of a traced operation, None if it has none."""
    return node.args[0] if node.args else node.kwargs.get("input")


def operands_of(node: fx.Node) -> tuple[object, object] | None:
    """Return both operands of a traced operation; None if it has other arguments."""
    given = dict(zip(("input", "other"), node.args, strict=False)) | node.kwargs
    if len(node.args) > 2 or given.keys() != {"input", "other"}:
        return None
    return given["input"], given["other"]


def multiplies_tensors(node: fx.Node) -> bool:
    """Return True for a product of two tensors, not of a tensor and a number."""
    operands = operands_of(node)
    tensors = operands is not None and all(isinstance(item, fx.Node) for item in operands)
    return node.target in PRODUCTS and tensors


@dataclass(frozen=True, kw_only=True)
class Step:
    """A traced operation of a composition: its callable and arguments."""

    result: fx.Node
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Composition(nn.Module):
    """Elementwise function of one tensor, as the operations that compute it.

    Args:
        source: Traced operation that makes the tensor.
        steps: Operations in order; the last one makes the result.
    """

    def __init__(self, source: fx.Node, steps: Sequence[Step]) -> None:
        super().__init__()
        self._source, self._steps = source, tuple(steps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of every number."""
        # Some operations change their operand.
        results: dict[fx.Node, Any] = {self._source: x.clone()}
        for step in self._steps:
            args, kwargs = fx.node.map_arg((step.args, step.kwargs), results.__getitem__)
            results[step.result] = step.call(*args, **kwargs)
        y: Tensor = results[self._steps[-1].result]
        return y


@dataclass(frozen=True, kw_only=True)
class FusedOp:
    """Base of the fused operations.

    Attributes:
        output: Name of the value written.
        shape: Its shape, C, H, W.
        input: Name of the value read.
        path: Location in the model, for error messages.
    """

    # The output has its own scale; otherwise it shares the scale of the input.
    rescales: ClassVar[bool] = False
    # A positive factor of a channel of all inputs is a factor of the channel of the output.
    equivariant: ClassVar[bool] = False

    output: str
    shape: Shape
    input: str
    path: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all values read."""
        return (self.input,)

    @property
    def margin(self) -> tuple[int, int, int, int] | None:
        """Left, right, top and bottom border of zeros if the operation adds nothing else."""
        return None

    @property
    def domain(self) -> tuple[float, float]:
        """Least and greatest input beyond which the output hardly changes."""
        return -math.inf, math.inf

    def unit(self, *sources: float) -> float:
        """Return the number whose power-of-two multiples are scales without a factor to round.

        Args:
            sources: This number for each of the inputs.
        """
        return 1.0 if self.rescales else sources[0]

    def compute(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the output `[N, C, H, W]` for the values `inputs`."""
        raise NotImplementedError

    def lower(self, builder: GraphBuilder) -> None:
        """Append the node to the integer graph."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OrderOp(FusedOp):
    """Operation whose outputs are elements of the input, chosen by their order.

    It commutes with batch norm and ReLU, up to the order, and so fuses with the layer before.
    """

    equivariant = True

    def lower(self, builder: GraphBuilder, reversed: NDArray[np.bool_] | None = None) -> None:
        """Append the node.

        Args:
            builder: The integer graph.
            reversed: `[C]`, True for channels of the opposite order; None for no channel.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RectifiedOp(FusedOp):
    """Operation that a following ReLU can join.

    Attributes:
        relu: Clamp negative results to zero.
        ceiling: Upper bound of the result, as of ReLU6, or None.
    """

    rescales = True

    relu: bool = False
    ceiling: float | None = None

    def rectified(self, y: Tensor) -> Tensor:
        """Return `y` after the ReLU, if there is one."""
        if not self.relu:
            return y
        return functional.relu(y) if self.ceiling is None else y.clamp(0.0, self.ceiling)

    def limits(self, qparams: QuantParams) -> tuple[int, int]:
        """Return the least and the greatest integer of the output."""
        low, high = qparams.zero_point if self.relu else 0, qparams.qmax
        if self.ceiling is not None:
            high = min(high, qparams.zero_point + round(self.ceiling / qparams.scale))
        return low, high


def times(factor: float, x: Tensor) -> Tensor:
    """Return the product; `x` itself for the factor 1."""
    return x if factor == 1.0 else factor * x
