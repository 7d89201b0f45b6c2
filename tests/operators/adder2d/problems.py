"""Problems for the adder operator, and what a backend makes of one."""

from __future__ import annotations

import itertools
import random

import torch
from tests import oracle
from torch import Tensor

from mulfree.functional import adder2d
from mulfree.operators.window import ConvProblem


def geometries() -> list[ConvProblem]:
    """Some three hundred windows: a grid over every argument, thinned at random."""
    grid = itertools.product(
        (1, 3),  # batch
        ((1, 1, 1), (3, 8, 1), (16, 5, 1), (4, 6, 2), (6, 6, 6), (5, 17, 1)),
        ((1, 1), (7, 7), (8, 5), (16, 33)),
        ((1, 1), (3, 3), (2, 5)),
        ((1, 1), (2, 2), (3, 1)),
        ((0, 0), (1, 1), (2, 3)),
        ((1, 1), (2, 1)),
    )
    windows = [
        ConvProblem(
            batch=n,
            in_channels=c,
            out_channels=o,
            groups=g,
            size=size,
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        for n, (c, o, g), size, kernel, stride, padding, dilation in grid
    ]
    possible = [w for w in windows if min(w.output_shape) > 0]
    return random.Random(0).sample(possible, 320)


def operands(
    window: ConvProblem, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (window.input_shape, window.weight_shape, window.output_shape)
    x, w, g = (torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes)
    return x, w, g


def run(
    x: Tensor, w: Tensor, g: Tensor, window: ConvProblem, **options: object
) -> tuple[Tensor, Tensor, Tensor]:
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    geometry = window.sliding
    y = adder2d(x, w, None, *geometry, **options)  # type: ignore[arg-type]
    y.backward(g)
    assert x.grad is not None
    assert w.grad is not None
    return y.detach(), x.grad, w.grad


def assert_right(
    results: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    w: Tensor,
    g: Tensor,
    window: ConvProblem,
    gradient: str,
    norm: float = 1.0,
) -> None:
    """Output and gradients are as near to the definition as the numerics rule wants them."""
    x, w, g = x.cpu(), w.cpu(), g.cpu()
    naive = (oracle.forward(x, w, window, norm), *oracle.gradients(x, w, g, window, gradient))
    wide = (x.double(), w.double())
    exact = (
        oracle.forward(*wide, window, norm),
        *oracle.gradients(*wide, g.double(), window, gradient),
    )
    for result, rough, true, number in zip(results, naive, exact, _terms(window), strict=True):
        oracle.assert_within_bound(result.cpu(), rough, true, number)


def assert_not_finite_as_defined(
    results: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    w: Tensor,
    g: Tensor,
    window: ConvProblem,
    gradient: str,
) -> None:
    """NaN and infinities lie where the definition in float64 has them."""
    x, w, g = x.cpu().double(), w.cpu().double(), g.cpu().double()
    exact = (oracle.forward(x, w, window), *oracle.gradients(x, w, g, window, gradient))
    for result, true in zip(results, exact, strict=True):
        for kind in (torch.isnan, torch.isposinf, torch.isneginf):
            assert torch.equal(kind(result.cpu()), kind(true))


def _terms(window: ConvProblem) -> tuple[int, int, int]:
    """How many taps are summed in an output, in a gradient of the input, of the weight."""
    area = window.kernel[0] * window.kernel[1]
    n, filters, height, width = window.output_shape
    taps = window.weight_shape[1] * area
    return taps, filters // window.groups * area, max(1, n * height * width)
