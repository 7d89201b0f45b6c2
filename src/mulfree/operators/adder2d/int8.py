"""The adder layer's sums in integers, as the runtime defines them.

With one scale and zero for input and weight, `x = scale (q_x - zero)` and `w = scale (q_w - zero)`,
the zero cancels: `-sum |x - w| = scale * acc` with `acc = -sum |q_x - q_w|`. The sum needs 32 bits
for up to 8.4 million taps. See `docs/runtime.md` for what becomes of acc.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mulfree.errors import DTypeError, ShapeError
from mulfree.operators.operand import check_tensor
from mulfree.operators.window import PairLike, integer, pair
from mulfree.runtime import reference

_MOST_TAPS = (2**31 - 1) // 255


def adder2d_int8(
    input: Tensor,
    weight: Tensor,
    stride: PairLike = 1,
    padding: PairLike = 0,
    groups: int = 1,
    *,
    zero: int = 0,
) -> Tensor:
    """`acc = -sum |q_x - q_w|`, exact: the definition in numpy, for tensors on the CPU.

    Args:
        input: `(N, C_in, H, W)`, uint8.
        weight: `(C_out, C_in / groups, K_h, K_w)`, uint8.
        stride: Step of the window, one number or `(vertical, horizontal)`.
        padding: Rows and columns on each side, in which every integer is `zero`.
        groups: Number of groups that channels are divided into.
        zero: The integer that stands for 0.

    Returns:
        `(N, C_out, H_out, W_out)`, int32.

    Raises:
        ShapeError: A shape or a size of the window is not possible, or a filter has so many taps
            that the sum could leave 32 bits.
        DTypeError: A tensor is not uint8.

    References:
        One scale for both: arXiv 2101.10015.
    """
    for name, tensor in (("input", input), ("weight", weight)):
        check_tensor("adder2d_int8", name, tensor)
        if tensor.dtype != torch.uint8:
            raise DTypeError(f"adder2d_int8: `{name}` must be uint8, got {tensor.dtype}")
        if tensor.ndim != 4:
            raise ShapeError(
                f"adder2d_int8: `{name}` must have four dimensions, got {list(tensor.shape)}"
            )
    stride = pair("adder2d_int8", "stride", stride, 1)
    padding = pair("adder2d_int8", "padding", padding, 0)
    groups = integer("adder2d_int8", "groups", groups, 1)
    channels, filters = input.shape[1], len(weight)
    if filters % groups or channels != weight.shape[1] * groups:
        raise ShapeError(
            f"adder2d_int8: `groups` must divide C_in (={channels}) into parts of the filters' "
            f"{weight.shape[1]} channels, and C_out (={filters}), got {groups}"
        )
    sizes = zip(input.shape[2:], padding, weight.shape[2:], strict=True)
    if any(not 1 <= window <= size + 2 * border for size, border, window in sizes):
        raise ShapeError(
            f"adder2d_int8: `input` must be at least as large as the window, got "
            f"{list(input.shape)} for weight {list(weight.shape)} and padding {padding}"
        )
    if math.prod(weight.shape[1:]) > _MOST_TAPS:
        raise ShapeError(
            f"adder2d_int8: `weight` must have at most {_MOST_TAPS} taps a filter, "
            f"got {list(weight.shape)}"
        )
    x, w = (tensor.permute(0, 2, 3, 1).numpy() for tensor in (input, weight))
    sums = reference.adder2d(x, w, stride, padding, groups, zero=zero)
    return torch.from_numpy(sums).permute(0, 3, 1, 2).contiguous()
