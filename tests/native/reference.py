"""Float64 definition of the adder convolution and its gradients, one window position at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rule = Literal["adder", "sign"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of one call: input `[N, C_in, H, W]`, weight `[C_out, C_in / groups, K_h, K_w]`."""

    n: int = 1
    c: int = 1
    h: int = 1
    w: int = 1
    co: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input."""
        return (self.n, self.c, self.h, self.w)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight."""
        return (self.co, self.c // self.groups, *self.kernel)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output."""
        extents = zip(
            (self.h, self.w), self.kernel, self.stride, self.padding, self.dilation, strict=True
        )
        ho, wo = ((i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in extents)
        return (self.n, self.co, ho, wo)

    @property
    def summands(self) -> tuple[int, int, int]:
        """Summands of one value of the output, the input gradient and the weight gradient."""
        window = self.kernel[0] * self.kernel[1]
        n, _, ho, wo = self.output_shape
        return (
            self.c // self.groups * window,
            self.co // self.groups * window,
            max(1, n * ho * wo),
        )


def _windows(geo: Geometry) -> Iterator[tuple[int, slice, int, int, tuple[slice, slice]]]:
    """Per filter and tap: filter, its channels, kernel row and column, padded rows and columns."""
    extents = geo.output_shape[2:]
    filters, channels = geo.co // geo.groups, geo.c // geo.groups
    for f in range(geo.co):
        first = f // filters * channels
        for r in range(geo.kernel[0]):
            for s in range(geo.kernel[1]):
                starts = (r * geo.dilation[0], s * geo.dilation[1])
                rows, cols = (
                    slice(start, start + (extent - 1) * stride + 1, stride)
                    for start, extent, stride in zip(starts, extents, geo.stride, strict=True)
                )
                yield f, slice(first, first + channels), r, s, (rows, cols)


def _pad(geo: Geometry, x: Array) -> Array:
    (ph, pw) = geo.padding
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))


def _bounded(t: Array, rule: Rule) -> Array:
    return np.sign(t) if rule == "sign" else np.clip(t, -1, 1)


def forward(geo: Geometry, x: Array, w: Array) -> Array:
    """`-sum |x - w|` in the dtype of `x`, summed naively."""
    out = np.zeros(geo.output_shape, x.dtype)
    padded = _pad(geo, x)
    for f, channels, r, s, window in _windows(geo):
        taps = w[f, :, r, s, None, None]
        out[:, f] += np.abs(padded[:, channels, *window] - taps).sum(1)
    return -out


def input_grad(geo: Geometry, rule: Rule, g: Array, x: Array, w: Array) -> Array:
    """Sum of `clamp(w - x, -1, 1) * g` or `sign(w - x) * g` per input value."""
    (ph, pw) = geo.padding
    padded = _pad(geo, x)
    out = np.zeros_like(padded)
    for f, channels, r, s, window in _windows(geo):
        t = w[f, :, r, s, None, None] - padded[:, channels, *window]
        out[:, channels, *window] += _bounded(t, rule) * g[:, f, None]
    return out[:, :, ph : ph + geo.h, pw : pw + geo.w]


def weight_grad(geo: Geometry, rule: Rule, g: Array, x: Array, w: Array) -> Array:
    """Sum of `(x - w) * g` or `sign(x - w) * g` per weight."""
    out = np.zeros(geo.weight_shape, x.dtype)
    padded = _pad(geo, x)
    for f, channels, r, s, window in _windows(geo):
        t = padded[:, channels, *window] - w[f, :, r, s, None, None]
        out[f, :, r, s] = ((np.sign(t) if rule == "sign" else t) * g[:, f, None]).sum((0, 2, 3))
    return out
