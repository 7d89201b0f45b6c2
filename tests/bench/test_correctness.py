from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mulfree.bench.correctness import BenchmarkError, check
from mulfree.bench.device import DTYPES, PRECISIONS, Precision
from mulfree.functional import adder2d
from mulfree.operators import Operator, get_operator
from mulfree.operators.window import ConvProblem

WINDOW = ConvProblem(batch=3, in_channels=4, out_channels=6, groups=2, stride=(2, 1))


def operator_with(function: Callable[..., Tensor]) -> Operator:
    return replace(get_operator("adder2d"), function=function)


def run(operator: Operator, problem: ConvProblem = WINDOW) -> None:
    check(operator, problem, torch.randn(problem.input_shape), torch.randn(problem.weight_shape))


@pytest.mark.parametrize("problem", [WINDOW, ConvProblem(batch=1)], ids=str)
def test_the_definition_passes(problem: ConvProblem) -> None:
    run(operator_with(partial(adder2d, backend="reference")), problem)


def test_the_convolution_passes() -> None:
    run(get_operator("conv2d"))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_definition_passes_in_every_format(
    precision: Precision, layout: torch.memory_format
) -> None:
    operands = [
        torch.randn(shape).to(DTYPES[precision]).contiguous(memory_format=layout)
        for shape in (WINDOW.input_shape, WINDOW.weight_shape)
    ]
    definition = operator_with(partial(adder2d, backend="reference"))
    check(definition, WINDOW, operands[0], operands[1], precision=precision)


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-4), ("tf32", 0.2), ("bf16", 4.0)])
def test_a_coarser_format_may_err_more_but_not_too_much(precision: Precision, error: float) -> None:
    def wrong(*operands: Any) -> Tensor:
        exact: Tensor = get_operator("adder2d").reference(*operands)
        return exact + error

    dtype = DTYPES[precision]
    input, weight = torch.randn(WINDOW.input_shape), torch.randn(WINDOW.weight_shape)
    with pytest.raises(BenchmarkError, match=rf"in {precision} is not timed: error of its output"):
        check(operator_with(wrong), WINDOW, input.to(dtype), weight.to(dtype), precision=precision)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Please use the new API settings")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_kernels_of_the_gpu_pass(precision: Precision, layout: torch.memory_format) -> None:
    problem = ConvProblem(batch=3, in_channels=16, out_channels=24, size=(9, 11))
    operands = [
        torch.randn(shape).to("cuda", DTYPES[precision]).contiguous(memory_format=layout)
        for shape in (problem.input_shape, problem.weight_shape)
    ]
    check(get_operator("adder2d"), problem, operands[0], operands[1], precision=precision)


@pytest.mark.gpu
def test_the_definition_on_the_gpu_is_that_of_the_cpu() -> None:
    x = torch.randn(WINDOW.input_shape, dtype=torch.float64)
    w = torch.randn(WINDOW.weight_shape, dtype=torch.float64)
    reference = get_operator("adder2d").reference
    on_gpu = reference(x.cuda(), w.cuda(), None, *WINDOW.sliding).cpu()
    torch.testing.assert_close(on_gpu, reference(x, w, None, *WINDOW.sliding))


class Wrong(torch.autograd.Function):
    """The reference with one result changed by a relative 1e-4, or lost."""

    @staticmethod
    def forward(ctx: Any, what: str, x: Tensor, w: Tensor, *settings: Any) -> Tensor:
        with torch.enable_grad():
            operands = [x.detach().requires_grad_(), w.detach().requires_grad_()]
            output = get_operator("adder2d").reference(*operands, *settings)
        ctx.what, ctx.operands, ctx.output = what, operands, output
        output = output.detach().clone()
        output[-1] *= 1.0001 if what == "output" else 1.0
        output[-1] *= float("nan") if what == "nan" else 1.0
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        to_input, to_weight = torch.autograd.grad(ctx.output, ctx.operands, grads[0])
        to_input[0] *= 1.0001 if ctx.what == "input gradient" else 1.0
        to_weight *= 1.0001 if ctx.what == "weight gradient" else 1.0
        return (None, to_input, to_weight, *[None] * 5)


@pytest.mark.parametrize("what", ["output", "input gradient", "weight gradient"])
def test_a_wrong_result_is_named(what: str) -> None:
    wrong = operator_with(partial(Wrong.apply, what))
    with pytest.raises(
        BenchmarkError, match=rf"adder2d on n3c4o6.* not timed: error of its {what} is .*, allowed"
    ) as caught:
        run(wrong)
    assert caught.value.exit_code == 1


def test_nan_is_wrong() -> None:
    with pytest.raises(BenchmarkError, match="error of its output is nan"):
        run(operator_with(partial(Wrong.apply, "nan")))
