"""Timed passes of an operator over one problem, as functions without arguments."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mulfree.operators import Operator
from mulfree.operators.window import ConvProblem

# Inputs as after a rectifier, as inside a network, and without one.
INPUTS = ("relu", "signed")

Operands = tuple[Tensor, Tensor, Tensor]
Run = Callable[[], object]


def operands(
    problem: ConvProblem,
    kind: str,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Operands:
    """Input, weight and gradient of the output; the same numbers every time.

    Args:
        problem: The geometry.
        kind: One of `INPUTS`.
        device: Their device.
        dtype: Their dtype.
        channels_last: Memory format of all three.
    """
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(problem.input_shape, generator=generator)
    weight = torch.randn(problem.weight_shape, generator=generator)
    grad = torch.randn(problem.output_shape, generator=generator)
    input = input.relu() if kind == "relu" else input
    layout = torch.channels_last if channels_last else torch.contiguous_format
    input, weight, grad = (
        tensor.to(device, dtype).contiguous(memory_format=layout)
        for tensor in (input, weight, grad)
    )
    return input, weight, grad


def taps(problem: ConvProblem) -> int:
    """Pairs of input and weight that meet in one forward pass."""
    return math.prod(problem.output_shape) * math.prod(problem.weight_shape[1:])


def taps_per_s(problem: ConvProblem, direction: str, seconds: float) -> float:
    """Rate of a pass; each of the two gradients is a reduction of the forward's size."""
    return taps(problem) * (3 if direction == "forward_backward" else 1) / seconds


def make(operator: Operator, problem: ConvProblem, direction: str, tensors: Operands) -> Run:
    """One pass of an operator over some operands.

    Args:
        operator: The operator.
        problem: The geometry.
        direction: One of `ALL_PASSES`.
        tensors: As from `operands`.
    """
    return _MAKERS[direction](operator, problem, *tensors)


def _forward(
    operator: Operator, problem: ConvProblem, input: Tensor, weight: Tensor, grad: Tensor
) -> Run:
    settings = (None, *problem.sliding)

    def run() -> None:
        with torch.no_grad():
            operator.function(input, weight, *settings)

    return run


def _input_grad(
    operator: Operator, problem: ConvProblem, input: Tensor, weight: Tensor, grad: Tensor
) -> Run:
    return _gradient(operator, problem, (input.detach().requires_grad_(), weight), grad)


def _weight_grad(
    operator: Operator, problem: ConvProblem, input: Tensor, weight: Tensor, grad: Tensor
) -> Run:
    return _gradient(operator, problem, (input, weight.detach().requires_grad_()), grad)


def _gradient(
    operator: Operator, problem: ConvProblem, tensors: tuple[Tensor, Tensor], grad: Tensor
) -> Run:
    """The backward pass alone, towards the tensor that requires a gradient."""
    output = operator.function(*tensors, None, *problem.sliding)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    return lambda: torch.autograd.grad(output, wanted, grad, retain_graph=True)


def _forward_backward(
    operator: Operator, problem: ConvProblem, input: Tensor, weight: Tensor, grad: Tensor
) -> Run:
    settings = (None, *problem.sliding)
    both = [tensor.detach().requires_grad_() for tensor in (input, weight)]

    def run() -> None:
        torch.autograd.grad(operator.function(*both, *settings), both, grad)

    return run


_MAKERS: dict[str, Callable[[Operator, ConvProblem, Tensor, Tensor, Tensor], Run]] = {
    "forward": _forward,
    "forward_backward": _forward_backward,
    "input_grad": _input_grad,
    "weight_grad": _weight_grad,
}
ALL_PASSES = tuple(_MAKERS)
PASSES = ALL_PASSES[:2]
