"""Sums and means over ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def total(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over ranks, differentiated by autograd."""
    if not tensor.requires_grad:
        return _summed(tensor)
    result: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return result


def average(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over ranks, differentiated by autograd."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    return total(tensor) / distributed.get_world_size()


class _Sum(torch.autograd.Function):
    """`total` with its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # The sum of this rank enters the losses of all ranks.
        return _summed(grads[0])


def _summed(tensor: Tensor) -> Tensor:
    summed = tensor.clone()
    distributed.all_reduce(summed)
    return summed
