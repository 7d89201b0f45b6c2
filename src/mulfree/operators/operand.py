"""Checks of tensors from outside, before a size is read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from mulfree.errors import DTypeError, ShapeError


def check_tensor(function: str, arg: str, value: object) -> None:
    """Refuse a value that no kernel can read.

    Args:
        function: The function that was called, for the message.
        arg: Its argument.
        value: The argument's value.

    Raises:
        DTypeError: It is not a tensor.
        ShapeError: It is sparse, nested or otherwise not a dense array, or has no size yet.
    """
    if not isinstance(value, Tensor):
        kind = type(value)
        raise DTypeError(
            f"{function}: `{arg}` must be a torch.Tensor, got {kind.__module__}.{kind.__qualname__}"
        )
    if isinstance(value, (UninitializedBuffer, UninitializedParameter)):
        raise ShapeError(
            f"{function}: `{arg}` must have a size, got a parameter that is not initialised yet"
        )
    if value.is_nested or value.layout != torch.strided:
        layout = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise ShapeError(
            f"{function}: `{arg}` must be a dense tensor, got a tensor of layout {layout}"
        )
