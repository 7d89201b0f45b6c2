"""The adder operator in plain torch, on any device and in any precision.

It is the definition that every kernel is held against, and what runs where no kernel exists.
Filters are visited one by one, so that no tensor of size C_out x taps x positions is ever made.

Legend: `N C_in H W · C_out K_h K_w`; G groups, K taps of a filter, P output positions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import fold, unfold

from mulfree.operators.adder2d.gradient import GradientRule
from mulfree.operators.window import Pair, Sliding


def _columns(input: Tensor, kernel: Pair, sliding: Sliding) -> Tensor:
    """Windows of the zero-padded input, `[N, G, K, P]`."""
    columns = unfold(input, kernel, sliding.dilation, sliding.padding, sliding.stride)
    return columns.reshape(len(columns), sliding.groups, -1, columns.shape[-1])


def _filters(weight: Tensor, groups: int) -> Tensor:
    """Filters one after the other, `[C_out / G, G, K, 1]`."""
    return weight.reshape(groups, weight.shape[0] // groups, -1, 1).transpose(0, 1)


def forward(input: Tensor, weight: Tensor, sliding: Sliding, norm: float) -> Tensor:
    """`-sum |x - w|^norm` over the taps, `[N, C_out, H_out, W_out]`."""
    kernel = _kernel(weight)
    columns = _columns(input, kernel, sliding)
    filters_first = _filters(weight, sliding.groups)
    per_filter = [-_power(columns - filters, norm).sum(2) for filters in filters_first]
    output_hw = sliding.output_hw(input.shape[2:], kernel)
    return torch.stack(per_filter, dim=2).reshape(len(input), len(weight), *output_hw)


def input_grad(
    grad: Tensor, input: Tensor, weight: Tensor, sliding: Sliding, rule: GradientRule
) -> Tensor:
    """`sum rule(x - w) g` over filters and windows, of `input`'s shape, without the padding."""
    kernel = _kernel(weight)
    columns = _columns(input, kernel, sliding)
    total = torch.zeros_like(columns)
    for filters, g in _pairs(weight, grad, sliding.groups):
        total += rule.towards_input(columns - filters) * g
    window = (kernel, sliding.dilation, sliding.padding, sliding.stride)
    return fold(total.flatten(1, 2), input.shape[2:], *window)


def weight_grad(
    grad: Tensor, input: Tensor, weight: Tensor, sliding: Sliding, rule: GradientRule
) -> Tensor:
    """`sum rule(x - w) g` over images and positions, of `weight`'s shape."""
    columns = _columns(input, _kernel(weight), sliding)
    rows = [
        (rule.towards_weight(columns - filters) * g).sum((0, 3))
        for filters, g in _pairs(weight, grad, sliding.groups)
    ]
    return torch.stack(rows, dim=1).reshape(weight.shape)


def _pairs(weight: Tensor, grad: Tensor, groups: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Filters `[G, K, 1]` with the gradients of their outputs `[N, G, 1, P]`."""
    per_filter = grad.reshape(len(grad), groups, -1, 1, grad.shape[2] * grad.shape[3])
    return zip(_filters(weight, groups), per_filter.unbind(2), strict=True)


def _kernel(weight: Tensor) -> Pair:
    return (weight.shape[2], weight.shape[3])


def _power(difference: Tensor, norm: float) -> Tensor:
    return difference.abs() if norm == 1.0 else difference.abs().pow(norm)
