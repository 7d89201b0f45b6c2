from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from mulfree.bench.passes import ALL_PASSES, PASSES, make, operands, taps, taps_per_s
from mulfree.operators import get_operator
from mulfree.operators.window import ConvProblem

WINDOW = ConvProblem(batch=2, in_channels=4, out_channels=6, groups=2, stride=(2, 1))
CONV = get_operator("conv2d")


def test_operands_are_the_same_every_time_in_every_format() -> None:
    plain = operands(WINDOW, "signed")
    rectified = operands(WINDOW, "relu", dtype=torch.bfloat16, channels_last=True)
    torch.testing.assert_close(rectified[0], plain[0].relu().bfloat16())
    for tensor, other, shape in zip(
        plain,
        rectified,
        (WINDOW.input_shape, WINDOW.weight_shape, WINDOW.output_shape),
        strict=True,
    ):
        assert tensor.shape == other.shape == shape
        assert tensor.is_contiguous()
        assert other.is_contiguous(memory_format=torch.channels_last)


def test_gradients_alone_are_those_of_the_convolution() -> None:
    tensors = operands(WINDOW, "signed")
    x, w, g = tensors
    settings: Any = {"stride": WINDOW.stride, "padding": WINDOW.padding, "groups": 2}
    expected = {
        "input_grad": (conv2d_input(x.shape, w, g, **settings),),
        "weight_grad": (conv2d_weight(x, w.shape, g, **settings),),
    }
    for direction, gradients in expected.items():
        run = make(CONV, WINDOW, direction, tensors)
        # Twice: what is timed is called again and again.
        for result in (run(), run()):
            torch.testing.assert_close(result, gradients)


@pytest.mark.parametrize("direction", ALL_PASSES)
def test_nothing_is_left_on_the_operands(direction: str) -> None:
    tensors = operands(WINDOW, "relu")
    make(CONV, WINDOW, direction, tensors)()
    assert all(tensor.grad is None and not tensor.requires_grad for tensor in tensors)


def test_the_forward_pass_keeps_nothing_for_a_backward() -> None:
    seen: list[bool] = []

    def function(*args: Any) -> torch.Tensor:
        output = functional.conv2d(*args)
        seen.append(output.requires_grad)
        return output

    spy = replace(CONV, function=function)
    for direction in PASSES:
        make(spy, WINDOW, direction, operands(WINDOW, "relu"))()
    assert seen == [False, True]


def test_rates() -> None:
    count = 2 * 6 * 4 * 8 * 2 * 9
    assert taps(WINDOW) == count
    assert taps_per_s(WINDOW, "input_grad", 0.5) == 2 * count
    assert taps_per_s(WINDOW, "forward_backward", 0.5) == 6 * count
