"""Entry of an operator folder, which models, cost, benchmarks and tests use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from mulfree.opcounts import OpCounts
from mulfree.operators.window import SAMPLES, ConvProblem

_MARK = "mulfree_adaptive_local_lr"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One way to compare a window of the input with a filter, with its layers and counts.

    Attributes:
        name: The operator's name, equal to its folder's and to its function's.
        function: `function(input, weight, bias, stride, padding, dilation, groups)`.
        reference: The same in plain torch, the definition that kernels are held against.
        conv: Layer class with the constructor of `torch.nn.Conv2d`.
        linear: Layer class with the constructor of `torch.nn.Linear`.
        count: `count(layer, input_shape, output_shape)` gives the operations of one call;
            biases are left out, as in the papers' tables.
        count_example: A small problem and its counts, worked out by hand.
        samples: Geometries that tests and benchmarks run.
    """

    name: str
    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    conv: type[nn.Module]
    linear: type[nn.Module]
    count: Callable[[nn.Module, tuple[int, ...], tuple[int, ...]], OpCounts]
    count_example: tuple[ConvProblem, OpCounts]
    samples: tuple[ConvProblem, ...] = field(default=SAMPLES, repr=False)


def mark_adaptive_local_lr(parameter: nn.Parameter) -> None:
    """Mark `parameter`: the adaptive local learning rate rescales its gradient."""
    setattr(parameter, _MARK, True)


def uses_adaptive_local_lr(parameter: Tensor) -> bool:
    """True if the adaptive local learning rate rescales the gradient of `parameter`."""
    return bool(getattr(parameter, _MARK, False))


def per_tap(counts: OpCounts) -> Callable[[nn.Module, tuple[int, ...], tuple[int, ...]], OpCounts]:
    """`Operator.count` of the same operations for every pair of input and weight."""
    return lambda layer, input_shape, output_shape: counts * taps(layer, output_shape)


def taps(layer: nn.Module, output_shape: tuple[int, ...]) -> int:
    """Pairs of input and weight met in one call: output elements times weights of a filter."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return math.prod(output_shape) * math.prod(weight.shape[1:])
