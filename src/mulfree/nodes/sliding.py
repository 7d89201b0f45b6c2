"""Base of the layers that slide filters over a map, and the geometry of windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.fields import Tensor, Text, artifact_error
from mulfree.nodes.node import (
    ACCUMULATOR_LIMIT,
    MAX_SIDE,
    Borders,
    ClampMax,
    ClampMin,
    Excess,
    Int32,
    Node,
    Shape,
    Shift,
    Size,
    Sizes,
    Values,
    check_epilogue,
    multiplies,
)
from mulfree.opcounts import OpCounts

Pair = tuple[int, int]
Margins = tuple[int, int, int, int]
"""Top, left, bottom, right."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SlidingLayer(Node):
    """Filters over windows, then normalisation, residual and requantisation in one epilogue.

    The accumulator `acc` sums over the `K = Kh * Kw * C / g` taps of a filter; padding reads as the
    zero point of the input. In 64 bits, `v = acc * multiplier[o] + offset[o] +
    residual_multiplier * q_residual`, `q_out = clamp((v + (1 << (shift - 1))) >> shift, clamp_min,
    clamp_max)`; the shift rounds down. All constants are part of `offset`, also
    `zero_point_out << shift` and `-residual_multiplier * zero_point_residual`.

    Attributes:
        weight: `[O, Kh, Kw, C / g]`.
        clamp_min: Least output, 0..255; after a ReLU it is the zero point of the output.
        clamp_max: Greatest output, `clamp_min`..255; `2**b - 1` for b bits.
        stride: Rows, columns.
        padding: Rows above and below, columns left and right, each below the kernel's.
        padding_excess: Further rows below and columns right, or fewer if negative: "SAME" padding
            of TensorFlow.
        groups: Parts of the channels and filters; filter o reads the channels of part
            `o // (O / g)`.
        multiplier: `i32[O]`, of any sign.
        offset: `i64[O]`.
        shift: 1..62.
        residual: Name of a value of the output's shape that is added, or None.
        residual_multiplier: Its factor, 32 bits; 0 without one.
    """

    weight: NDArray[Any]
    clamp_min: ClampMin
    clamp_max: ClampMax
    stride: Sizes = (1, 1)
    padding: Borders = (0, 0)
    groups: Size = 1
    multiplier: Annotated[NDArray[np.int32], Tensor("int32", 1)]
    offset: Annotated[NDArray[np.int64], Tensor("int64", 1)]
    shift: Shift
    residual: Annotated[str | None, Text(optional=True)] = None
    residual_multiplier: Int32 = 0
    padding_excess: Excess = (0, 0)

    # Largest magnitude of one tap's term in the accumulator.
    largest_product: ClassVar[int]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input and, if given, the residual."""
        return (self.input,) if self.residual is None else (self.input, self.residual)

    @property
    def taps(self) -> int:
        """K, the number of terms in one sum."""
        return math.prod(self.weight.shape[1:])

    @property
    def margins(self) -> Margins:
        """Rows above, columns left, rows below, columns right."""
        (top, left), (rows, columns) = self.padding, self.padding_excess
        return top, left, top + rows, left + columns

    def border(self, values: Values) -> Pair:
        """Return the larger margins of rows and columns: kernels read an even border."""
        top, left, bottom, right = self.margins
        return max(top, bottom), max(left, right)

    def output_shape(self, values: Values) -> Shape:
        """Return `[O, (H + top + bottom - Kh) / stride + 1, ...]`, rounded down."""
        shape = self._window_shape(values)
        largest = self.taps * self.largest_product
        self.require(
            largest < ACCUMULATOR_LIMIT,
            "weight",
            f"have so few taps that {self.largest_product} times their number is below 2**31",
        )
        self.require(
            self.residual is not None or self.residual_multiplier == 0,
            "residual_multiplier",
            "be 0 without a residual",
        )
        offsets = np.maximum(self.offset, -(2**63 - 1))
        bound = (
            largest * int(np.abs(self.multiplier.astype(np.int64)).max())
            + int(np.abs(offsets).max())
            + 255 * abs(self.residual_multiplier)
        )
        check_epilogue(self, bound)
        if self.residual is not None and values[self.residual].shape != shape:
            raise artifact_error(
                f"{self.name}.residual",
                f"have the output's shape {list(shape)}",
                list(values[self.residual].shape),
            )
        return shape

    def _window_shape(self, values: Values) -> Shape:
        """Return the output shape of the bare windows, whose geometry is checked."""
        channels = values[self.input].shape[0]
        filters, *kernel, depth = self.weight.shape
        self.require(min(self.weight.shape) > 0, "weight", "not be empty")
        self.require(max(self.weight.shape) <= MAX_SIDE, "weight", f"have sides <= {MAX_SIDE}")
        self.require(
            channels % self.groups == 0 and filters % self.groups == 0,
            "groups",
            f"divide the {channels} channels and {filters} filters",
        )
        self.require(
            depth * self.groups == channels,
            "weight",
            f"have {channels // self.groups} channels (last axis) in each of {self.groups} groups",
        )
        for name in ("multiplier", "offset"):
            self.require(getattr(self, name).shape == (filters,), name, f"have {filters} elements")
        return filters, *positions(
            self, values, kernel, self.stride, self.padding, self.padding_excess
        )

    def epilogue(self, values: Values) -> OpCounts:
        """Return one factor and one sum per output each for the accumulator and the residual."""
        _, rows, columns = values[self.output].shape
        residuals = 0 if self.residual is None else self.weight.shape[0]
        factors = multiplies(*self.multiplier.tolist())
        factors += residuals * multiplies(self.residual_multiplier)
        return OpCounts(
            mul=rows * columns * factors,
            add=rows * columns * (self.weight.shape[0] + residuals),
        )


def positions(
    node: Node,
    values: Values,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    excess: Sequence[int] = (0, 0),
) -> Pair:
    """Return the rows and columns of windows that fit into the padded input.

    Args:
        node: The node.
        values: Descriptions of the values by name.
        kernel: Rows, columns.
        stride: Rows, columns.
        padding: Rows above and below, columns left and right.
        excess: Further rows below, columns right.

    Raises:
        ArtifactError: None fits, or a window would see padding alone.
    """
    _, *sides = values[node.input].shape
    for border, window in zip(padding, kernel, strict=True):
        if border >= window:
            raise artifact_error(
                f"{node.name}.padding", f"be below the kernel's {list(kernel)}", border
            )
    for border, more, window in zip(padding, excess, kernel, strict=True):
        if not 0 <= border + more < window:
            raise artifact_error(
                f"{node.name}.padding_excess",
                f"leave paddings from 0 to below the kernel's {list(kernel)}",
                excess,
            )
    padded = [
        side + 2 * border + more for side, border, more in zip(sides, padding, excess, strict=True)
    ]
    for side, window in zip(padded, kernel, strict=True):
        if window > side:
            raise artifact_error(
                f"{node.name}.input", f"be as large as the window {list(kernel)}", sides
            )
    rows, columns = ((a - b) // c + 1 for a, b, c in zip(padded, kernel, stride, strict=True))
    return rows, columns


@dataclass(frozen=True, kw_only=True)
class ConvGeometry:
    """Geometry of a convolution or of windows, for one image.

    Attributes:
        channels: C.
        size: H, W of the input, without padding.
        filters: O.
        kernel: Rows, columns.
        stride: Rows, columns.
        padding: Rows above and below, columns left and right.
        dilation: Rows, columns.
        groups: G.
    """

    channels: int
    size: Pair
    filters: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def taps(self) -> int:
        """K."""
        return math.prod(self.kernel) * self.channels // self.groups

    @property
    def output(self) -> Pair:
        """H, W of the output."""
        rows, columns = (
            (side + 2 * border - step * (taps - 1) - 1) // stride + 1
            for side, border, step, taps, stride in zip(
                self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return rows, columns
