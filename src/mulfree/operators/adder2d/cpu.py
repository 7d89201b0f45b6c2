"""The native CPU kernels behind tensors.

float32 and float64 run as they are; float16 and bfloat16 are computed in float32 and rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mulfree._native import core
from mulfree.operators.window import Pair


def supports(rule: str, norm: float) -> bool:
    """Whether the kernels compute this gradient rule and norm."""
    return rule in ("adder", "sign") and norm == 1.0


def _dense(tensor: Tensor) -> Any:
    """Contiguous, in the precision that is computed in, as the array that a kernel takes."""
    precise = tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
    return precise.detach().contiguous().numpy()


def forward(
    input: Tensor,
    weight: Tensor,
    output_hw: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """`-sum |x - w|` over the taps, `[N, C_out, H_out, W_out]`."""
    x = _dense(input)
    output = torch.empty((len(input), len(weight), *output_hw), dtype=_compute_dtype(input))
    core().adder2d_forward(
        x, _dense(weight), output.numpy(), stride, padding, dilation, groups, _threads(), ""
    )
    return output.to(input.dtype)


def input_grad(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    rule: str,
) -> Tensor:
    """Gradient of the input by `rule`, of `input`'s shape."""
    output = torch.empty(input.shape, dtype=_compute_dtype(input))
    arrays = (_dense(grad), _dense(input), _dense(weight), output.numpy())
    core().adder2d_input_grad(*arrays, stride, padding, dilation, groups, rule, _threads(), "")
    return output.to(input.dtype)


def weight_grad(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    rule: str,
) -> Tensor:
    """Gradient of the weight by `rule`, of `weight`'s shape."""
    output = torch.empty(weight.shape, dtype=_compute_dtype(input))
    arrays = (_dense(grad), _dense(input), _dense(weight), output.numpy())
    core().adder2d_weight_grad(*arrays, stride, padding, dilation, groups, rule, _threads(), "")
    return output.to(weight.dtype)


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _threads() -> int:
    return torch.get_num_threads()
