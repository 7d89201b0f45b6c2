"""The integer semantics in numpy, written without a look at the kernels: int64 throughout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rule = Literal["adder2d", "conv2d"]
Pair = tuple[int, int]


def padded(x: Array, padding: Pair, zero: int, excess: Pair = (0, 0)) -> Array:
    """x `[H, W, C]` inside a border of `zero`, with `excess` more rows below and columns right."""
    sides = [(side, side + more) for side, more in zip(padding, excess, strict=True)]
    return np.pad(x, (*sides, (0, 0)), constant_values=zero)


def windows(x: Array, kernel: Pair, stride: Pair) -> Array:
    """`[Ho, Wo, C, Kh, Kw]` of x `[H, W, C]`."""
    view: Array = np.lib.stride_tricks.sliding_window_view(x, kernel, (0, 1))
    return view[:: stride[0], :: stride[1]]


def sums(
    rule: Rule,
    x: Array,
    w: Array,
    stride: Pair,
    padding: Pair,
    zero: int,
    groups: int,
    excess: Pair = (0, 0),
) -> Array:
    """acc `[Ho, Wo, O]` of x `[H, W, C]` and w `[O, Kh, Kw, C / groups]`."""
    view = windows(padded(x, padding, zero, excess), w.shape[1:3], stride).transpose(0, 1, 3, 4, 2)
    per_group = w.shape[0] // groups
    out = np.empty((*view.shape[:2], w.shape[0]), np.int64)
    for t in range(w.shape[0]):
        first = t // per_group * w.shape[3]
        window = view[..., first : first + w.shape[3]].astype(np.int64)
        terms = -abs(window - w[t]) if rule == "adder2d" else window * w[t]
        out[..., t] = terms.sum((2, 3, 4))
    return out


def requantise(v: Array, shift: int, low: int, high: int) -> Array:
    """clamp((v + 2**(shift - 1)) >> shift, low, high) as u8."""
    shifted: Array = (v + (1 << (shift - 1))) >> shift
    return np.clip(shifted, low, high).astype(np.uint8)


@dataclass
class Fixed:
    """Multiplier and offset per filter, shift and bounds, of one fixed-point step."""

    multiplier: Array
    offset: Array
    shift: int
    low: int
    high: int

    def __call__(self, acc: Array, residual: Array | int = 0) -> Array:
        """u8 of `acc [..., O]`; `residual` is multiplied already."""
        v = acc.astype(np.int64) * self.multiplier + self.offset + residual
        return requantise(v, self.shift, self.low, self.high)


@dataclass
class Window:
    """An adder or convolution layer."""

    rule: Rule
    weight: Array
    fixed: Fixed
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1
    residual_multiplier: int = 0
    padding_excess: Pair = (0, 0)

    def __call__(self, x: Array, zero: int, residual: Array | None = None) -> Array:
        """y `[Ho, Wo, O]` of x `[H, W, C]`."""
        window = self.stride, self.padding, zero, self.groups, self.padding_excess
        acc = sums(self.rule, x, self.weight, *window)
        if residual is None:
            return self.fixed(acc)
        return self.fixed(acc, residual.astype(np.int64) * self.residual_multiplier)


def max_pool(x: Array, kernel: Pair, stride: Pair, padding: Pair, minimum: Array) -> Array:
    """Maximum per channel, minimum where `minimum` is 1; the border never wins."""
    flip = np.where(minimum != 0, 255, 0).astype(np.uint8)
    largest: Array = windows(padded(x ^ flip, padding, 0), kernel, stride).max((3, 4))
    return largest ^ flip


def window_totals(x: Array, kernel: Pair, stride: Pair) -> Array:
    """Sum of x over each window, int64."""
    totals: Array = windows(x, kernel, stride).sum((3, 4), dtype=np.int64)
    return totals


def lut(x: Array, table: Array) -> Array:
    """table[c, x[..., c]]."""
    return table[np.arange(x.shape[-1]), x]


def linear(x: Array, weight: Array, scale: Array, bias: Array) -> Array:
    """float32(sum x * w) * scale + bias, both steps in float32."""
    acc = (weight.astype(np.int64) * x.reshape(-1)).sum(1)
    product: Array = acc.astype(np.float32) * scale
    return product + bias


@dataclass
class Sample:
    """Random arrays of one generator."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def u8(self, *shape: int) -> Array:
        """All values, with the extremes more often than by chance."""
        x = self.rng.integers(0, 256, shape, np.uint8)
        kind = self.rng.random()
        if kind < 0.1:
            return np.full(shape, 255 * (kind < 0.05), np.uint8)
        return np.where(self.rng.random(shape) < 0.1, x // 128 * 255, x).astype(np.uint8)

    def i8(self, *shape: int) -> Array:
        """As `u8`, for weights of a convolution."""
        return (self.u8(*shape) ^ 128).view(np.int8)

    def fixed(self, rule: Rule, filters: int, terms: int) -> Fixed:
        """A step whose results are spread over the u8, with some filters beyond both ends."""
        shift = int(self.rng.integers(1, 40))
        largest = max(1, terms * (255 if rule == "adder2d" else 255 * 40))
        scale = min(2.0**31 - 1, 2.0**shift * 500 / largest)
        low = int(self.rng.integers(0, 256)) if self.rng.random() < 0.3 else 0
        return Fixed(
            np.round(self.rng.uniform(-scale, scale, filters)).astype(np.int32),
            self.rng.integers(-(1 << shift) * 100, (1 << shift) * 350, filters, np.int64),
            shift,
            low,
            int(self.rng.integers(low, 256)) if self.rng.random() < 0.3 else 255,
        )
