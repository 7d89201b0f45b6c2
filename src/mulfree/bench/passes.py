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

# Whether the input and the weight get a gradient.
_DIFFERENTIATED = {
    "forward": (False, False),
    "forward_backward": (True, True),
    "input_grad": (True, False),
    "weight_grad": (False, True),
}
ALL_PASSES = tuple(_DIFFERENTIATED)
PASSES = ALL_PASSES[:2]

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
        direction: One of `ALL_PASSES`; a gradient alone is timed without its forward pass.
        tensors: As from `operands`.
    """
    *factors, grad = tensors
    needed = _DIFFERENTIATED[direction]
    factors = [
        tensor.detach().requires_grad_(on) for tensor, on in zip(factors, needed, strict=True)
    ]
    wanted = [tensor for tensor in factors if tensor.requires_grad]

    def forward() -> Tensor:
        return operator.function(*factors, None, *problem.sliding)

    if direction == "forward":
        return torch.no_grad()(forward)
    if direction == "forward_backward":
        return lambda: torch.autograd.grad(forward(), wanted, grad)
    output = forward()
    return lambda: torch.autograd.grad(output, wanted, grad, retain_graph=True)
