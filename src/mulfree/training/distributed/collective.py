"""Sums over the processes of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes, differentiated by autograd."""
    if not tensor.requires_grad:
        return _summed(tensor)
    result: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return result


def average(tensor: Tensor) -> Tensor:
    """The mean of a tensor over the processes, differentiated by autograd; itself in a lone one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    return total(tensor) / distributed.get_world_size()


class _Sum(torch.autograd.Function):
    """`total`, and how it is differentiated."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # What each process adds reaches the losses of all of them.
        return _summed(grads[0])


def _summed(tensor: Tensor) -> Tensor:
    summed = tensor.clone()
    distributed.all_reduce(summed)
    return summed
