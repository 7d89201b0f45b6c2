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


def _windows(geo: Geometry, x: Array) -> Iterator[tuple[int, int, int, Array]]:
    """Per (group, kernel row, kernel column): the values `[N, C_in / groups, H_o, W_o]` it meets."""
    _, _, ho, wo = geo.output_shape
    (sh, sw), (ph, pw), (dh, dw) = geo.stride, geo.padding, geo.dilation
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    channels = geo.c // geo.groups
    for group in range(geo.groups):
        own = padded[:, group * channels : (group + 1) * channels]
        for r in range(geo.kernel[0]):
            for s in range(geo.kernel[1]):
                top, left = r * dh, s * dw
                yield (
                    group,
                    r,
                    s,
                    own[
                        :,
                        :,
                        top : top + (ho - 1) * sh + 1 : sh,
                        left : left + (wo - 1) * sw + 1 : sw,
                    ],
                )


def forward(geo: Geometry, x: Array, w: Array) -> Array:
    """`-sum |x - w|` in the dtype of `x`, summed naively."""
    out = np.zeros(geo.output_shape, x.dtype)
    filters = geo.co // geo.groups
    for group, r, s, xs in _windows(geo, x):
        for f in range(group * filters, (group + 1) * filters):
            for c in range(xs.shape[1]):
                out[:, f] += np.abs(xs[:, c] - w[f, c, r, s])
    return -out


def _bounded(t: Array, rule: Rule) -> Array:
    return np.sign(t) if rule == "sign" else np.clip(t, -1, 1)


def input_grad(geo: Geometry, rule: Rule, g: Array, x: Array, w: Array) -> Array:
    """Sum of `clamp(w - x, -1, 1) * g` or `sign(w - x) * g` per input value."""
    (sh, sw), (ph, pw), (dh, dw) = geo.stride, geo.padding, geo.dilation
    _, _, ho, wo = geo.output_shape
    out = np.zeros((geo.n, geo.c, geo.h + 2 * ph, geo.w + 2 * pw), x.dtype)
    filters, channels = geo.co // geo.groups, geo.c // geo.groups
    for group, r, s, xs in _windows(geo, x):
        top, left = r * dh, s * dw
        rows = slice(top, top + (ho - 1) * sh + 1, sh)
        cols = slice(left, left + (wo - 1) * sw + 1, sw)
        for f in range(group * filters, (group + 1) * filters):
            for c in range(channels):
                out[:, group * channels + c, rows, cols] += (
                    _bounded(w[f, c, r, s] - xs[:, c], rule) * g[:, f]
                )
    return out[:, :, ph : ph + geo.h, pw : pw + geo.w]


def weight_grad(geo: Geometry, rule: Rule, g: Array, x: Array, w: Array) -> Array:
    """Sum of `(x - w) * g` or `sign(x - w) * g` per weight."""
    out = np.zeros(geo.weight_shape, x.dtype)
    filters = geo.co // geo.groups
    for group, r, s, xs in _windows(geo, x):
        for f in range(group * filters, (group + 1) * filters):
            for c in range(xs.shape[1]):
                t = xs[:, c] - w[f, c, r, s]
                out[f, c, r, s] = ((np.sign(t) if rule == "sign" else t) * g[:, f]).sum()
    return out
