"""Geometry of a window that slides over an image: padding, stride, dilation, output size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from mulfree.errors import ConfigError, ShapeError, choices_message, quoted

Pair: TypeAlias = tuple[int, int]
PairLike: TypeAlias = int | Sequence[int]
Padding: TypeAlias = PairLike | Literal["same", "valid"]

# Sizes of windows fit 32 bits, so that no product of two of them leaves 64.
_MOST = 2**31 - 1
# 4 TiB of float32: a larger tensor is a mistake in a size.
_MOST_VALUES = 2**40


class Sliding(NamedTuple):
    """Stride, padding, dilation and groups of a sliding window."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_hw(self, input_hw: Sequence[int], kernel: Sequence[int]) -> Pair:
        """`(H_out, W_out)`."""
        height, width = (
            output_size(*sizes)
            for sizes in zip(
                input_hw, kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return (height, width)


@dataclass(frozen=True, kw_only=True)
class ConvProblem:
    """Shapes and geometry of one call of an operator, for tests and benchmarks."""

    batch: int = 2
    in_channels: int = 3
    out_channels: int = 4
    size: Pair = (8, 8)
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """`(N, C_in, H, W)`."""
        return (self.batch, self.in_channels, *self.size)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """`(C_out, C_in / groups, K_h, K_w)`."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """`(N, C_out, H_out, W_out)`."""
        output_hw = self.sliding.output_hw(self.size, self.kernel)
        return (self.batch, self.out_channels, *output_hw)

    @property
    def sliding(self) -> Sliding:
        """The arguments of an operator after input, weight and bias."""
        return Sliding(self.stride, self.padding, self.dilation, self.groups)

    def __str__(self) -> str:
        """A short name that can stand in a test's identifier."""
        n, c, h, w = self.input_shape
        text = f"n{n}c{c}o{self.out_channels}x{h}x{w}k{self.kernel[0]}x{self.kernel[1]}"
        for letter, pair, usual in (("s", self.stride, 1), ("p", self.padding, 0)):
            if pair != (usual, usual):
                text += f"{letter}{pair[0]}{pair[1]}"
        if self.dilation != (1, 1):
            text += f"d{self.dilation[0]}{self.dilation[1]}"
        return text + (f"g{self.groups}" if self.groups > 1 else "")


SAMPLES = (
    ConvProblem(),
    ConvProblem(kernel=(1, 1), padding=(0, 0)),
    ConvProblem(stride=(2, 2)),
    ConvProblem(kernel=(1, 1), padding=(0, 0), stride=(2, 2)),
    ConvProblem(kernel=(5, 3), padding=(2, 0), stride=(1, 2), size=(9, 11)),
    ConvProblem(dilation=(2, 3), padding=(2, 3), size=(9, 10)),
    ConvProblem(in_channels=4, out_channels=6, groups=2),
    ConvProblem(in_channels=4, out_channels=4, groups=4),
    ConvProblem(in_channels=4, out_channels=8, groups=4, stride=(2, 1)),
    ConvProblem(kernel=(7, 7), padding=(3, 3), stride=(2, 2), size=(15, 16)),
    ConvProblem(batch=1, in_channels=1, out_channels=1, size=(1, 1), kernel=(1, 1), padding=(0, 0)),
    ConvProblem(size=(2, 2), kernel=(3, 3), padding=(2, 2)),
    ConvProblem(batch=3, in_channels=17, out_channels=19, size=(7, 7)),
    ConvProblem(batch=0),
)


def integer(function: str, arg: str, value: int, minimum: int) -> int:
    """`value`, an integer of Python, NumPy or a traced size, as one that torch takes.

    Raises:
        ShapeError: It is no integer, less than `minimum` or beyond 31 bits.
    """
    if not _is_size(value, minimum):
        raise ShapeError(
            f"{function}: `{arg}` must be an integer below 2**31 and >= {minimum}, "
            f"got {quoted(value)}"
        )
    return _plain(value)


def pair(function: str, arg: str, value: PairLike, minimum: int) -> Pair:
    """`value` as `(vertical, horizontal)`, each as `integer` has it.

    Raises:
        ShapeError: It is neither an integer nor a pair of integers, or one is out of range.
    """
    items = value if isinstance(value, Sequence) else (value, value)
    if len(items) != 2 or not all(_is_size(item, minimum) for item in items):
        raise ShapeError(
            f"{function}: `{arg}` must be an integer or a pair of integers below 2**31 and "
            f">= {minimum}, got {quoted(value)}"
        )
    return (_plain(items[0]), _plain(items[1]))


def _is_size(value: object, minimum: int) -> bool:
    if type(value) is int:
        return minimum <= value <= _MOST
    integers = (int, torch.SymInt, np.integer)
    if not isinstance(value, integers) or isinstance(value, bool):
        return False
    return bool(minimum <= value <= _MOST)


def _plain(value: int) -> int:
    return int(value) if isinstance(value, np.integer) else value


def check_values(function: str, arg: str, shape: Sequence[int]) -> None:
    """Refuse a size in memory that only a wrong argument can have; traced sizes pass.

    Raises:
        ShapeError: The shape has more than 2**40 values.
    """
    if all(isinstance(size, int) for size in shape) and math.prod(shape) > _MOST_VALUES:
        raise ShapeError(
            f"{function}: `{arg}` must have at most 2**40 values, got shape {list(shape)}"
        )


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Number of window positions along one axis; 0 or less where the window does not fit."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def resolve_padding(
    function: str, padding: Padding, kernel: Pair, stride: Pair, dilation: Pair
) -> tuple[Pair, tuple[int, int, int, int] | None]:
    """Padding as a symmetric pair, and the rest for `torch.nn.functional.pad`.

    "same" keeps the size of the image; where it needs an odd number of rows or columns the extra
    one goes to the bottom or right, as in torch, and is returned as `(left, right, top, bottom)`.
    """
    if not isinstance(padding, str):
        return pair(function, "padding", padding, 0), None
    if padding == "valid":
        return (0, 0), None
    if padding != "same":
        raise ConfigError(choices_message(function, "padding", padding, ("same", "valid")))
    if stride != (1, 1):
        raise ConfigError(f"{function}: `stride` must be 1 with padding='same', got {stride}")
    total_h, total_w = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    extra = (0, total_w % 2, 0, total_h % 2)
    return (total_h // 2, total_w // 2), extra if any(extra) else None
