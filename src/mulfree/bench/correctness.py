"""Check before a benchmark: a wrong kernel is not timed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mulfree.bench.device import Precision, computing_in
from mulfree.errors import MulfreeError
from mulfree.operators import Operator
from mulfree.operators.window import ConvProblem

# TF32 keeps 10 bits of the mantissa: both factors of a product are rounded to these.
_TF32_EPS = 2.0**-10


class BenchmarkError(MulfreeError):
    """A measurement that cannot be made, or a candidate that is wrong."""

    exit_code = 1


def check(
    operator: Operator,
    problem: ConvProblem,
    input: Tensor,
    weight: Tensor,
    *,
    precision: Precision = "fp32",
) -> None:
    """Compare an operator's output and gradients with its definition in float64.

    The kernel runs on the whole batch, as when it is timed; output and gradients are compared on
    the first and the last image, where blocks of work begin and end. The definition is
    evaluated on the same device and from the same, perhaps already rounded, operands.
    The bound is twice the error of the definition in the operands' dtype, plus `sqrt(K) eps max|y|`
    for a reduction over K terms.

    Args:
        operator: Its `function` is compared with its `reference`.
        problem: The geometry.
        input: `(N, C_in, H, W)`, in any memory format.
        weight: `(C_out, C_in / groups, K_h, K_w)`, of the same dtype.
        precision: Number format; "tf32" allows it where the operator multiplies.

    Raises:
        BenchmarkError: An error is above the bound, or not a number.
    """
    images = sorted({0, problem.batch - 1})
    grad = torch.zeros(problem.output_shape)
    generator = torch.Generator().manual_seed(0)
    shape = (len(images), *problem.output_shape[1:])
    grad[images] = torch.randn(shape, generator=generator)
    last = input.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    grad = grad.to(input).contiguous(memory_format=layout)

    with computing_in(precision):
        computed = _run(operator.function, problem, input, weight, grad)
    few = (input[images], weight, grad[images])
    with computing_in("fp32"):
        naive = _run(operator.reference, problem, *few)
        exact = _run(operator.reference, problem, *(tensor.double() for tensor in few))

    _, channels, height, width = problem.output_shape
    taps = math.prod(problem.weight_shape[1:])
    terms = {
        "output": taps,
        "input gradient": taps * channels // problem.in_channels,
        "weight gradient": len(images) * height * width,
    }
    for name, terms_summed in terms.items():
        own = computed[name] if name == "weight gradient" else computed[name][images]
        truth = exact[name]
        scale = float(truth.abs().max())
        error = float((own - truth).abs().max())
        allowed = 2 * float((naive[name] - truth).abs().max()) + (
            math.sqrt(terms_summed) * _eps(input.dtype, precision) * scale
        )
        if not error <= allowed:
            raise BenchmarkError(
                f"bench: {operator.name} on {problem} in {precision} is not timed: error of its "
                f"{name} is {error:.3g}, allowed are {allowed:.3g}"
            )


def _eps(dtype: torch.dtype, precision: Precision) -> float:
    return _TF32_EPS if precision == "tf32" else torch.finfo(dtype).eps


def _run(
    function: Callable[..., Tensor],
    problem: ConvProblem,
    input: Tensor,
    weight: Tensor,
    grad: Tensor,
) -> dict[str, Tensor]:
    operands = [tensor.detach().requires_grad_() for tensor in (input, weight)]
    output = function(*operands, None, *problem.sliding)
    to_input, to_weight = torch.autograd.grad(output, operands, grad)
    return {
        "output": output.detach(),
        "input gradient": to_input,
        "weight gradient": to_weight,
    }
