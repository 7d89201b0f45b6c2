"""The quantised network as data: values, nodes, and everything a valid graph promises.

A graph is checked as a whole when it is made, so that what runs it need not look again: every value
is made before it is used and used after it was made, shapes follow from the nodes, and no sum
leaves 64 bits. All of it is integers; the arithmetic is defined in `reference.py`.

Legend: C channels, H W rows and columns, O outputs (filters), Kh Kw window, g groups. A value holds
one `u8[H, W, C]` per image, an integer q that stands for the real number `scale * (q - zero)`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.fields import (
    Floats,
    Integer,
    Integers,
    Labels,
    Scale,
    Tensor,
    Text,
    Texts,
    artifact_error,
    check_fields,
)

MAX_NODES = 4096
MAX_SIDE = 2**15
"""Rows, columns, channels, windows and paddings have at most this size."""
MAX_ELEMENTS = 2**26
"""A value holds at most this many integers for one image, with its borders."""
MAX_WORK = 2**41
"""Multiplications, additions, comparisons and copies for one image: four times what ResNet-152
takes for 1024 x 1024 pixels."""

_SUM_LIMIT = 2**62
_ACCUMULATOR_LIMIT = 2**31


@dataclass(frozen=True, kw_only=True)
class Count:
    """Arithmetic operations on one image.

    Attributes:
        mul: Multiplications; by a power of two it is a shift and not counted.
        add: Additions and subtractions.
    """

    mul: int = 0
    add: int = 0

    def __add__(self, other: Count) -> Count:
        """The operations of both."""
        return Count(mul=self.mul + other.mul, add=self.add + other.add)


Operations = Mapping[str, Count]
"""Counts by the operands they are for: int8, int32 (the epilogues' too), fp32."""

_Name = Annotated[str, Text()]
_Names = Annotated[tuple[str, ...], Texts()]
_U8 = Annotated[int, Integer(0, 255)]
_I32 = Annotated[int, Integer(-(2**31), 2**31 - 1)]
_I64 = Annotated[int, Integer(-(2**63), 2**63 - 1)]
_Shift = Annotated[int, Integer(1, 62)]
_Size = Annotated[int, Integer(1, MAX_SIDE)]
_Border = Annotated[int, Integer(0, MAX_SIDE)]
_Sizes = Annotated[tuple[int, int], Integers(2, 1, MAX_SIDE)]
_Borders = Annotated[tuple[int, int], Integers(2, 0, MAX_SIDE)]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A feature map, and what its integers stand for.

    Attributes:
        name: Unique among the values.
        shape: C, H, W. In memory the channels come last.
        scale: Real size of one step; it takes no part in the arithmetic (but for the input's).
        zero: The integer that stands for 0, and what padding is filled with.
    """

    name: _Name
    shape: Annotated[tuple[int, int, int], Integers(3, 1, MAX_SIDE)]
    scale: Annotated[float, Scale()]
    zero: _U8

    @property
    def elements(self) -> int:
        """Integers of one image."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Input:
    """How pictures become the first value.

    Pixels `u8[N, C, H, W]` become `table[c][pixel]`. An array `f32[N, C, H, W]` is taken as already
    normalised, `(pixel / 255 - mean) / std`, and becomes
    `clamp(round(x / scale) + zero, 0, 255)`, half to even.

    Attributes:
        value: Name of the value it makes; C is the number of channels (1 grey, 3 RGB).
        table: `u8[C, 256]`, what each pixel becomes.
        mean: Per channel, of pixels scaled to 0..1.
        std: Per channel, likewise.
        resize: A picture of another size is resized to this on its shorter side, bilinearly, then
            cut to the middle square of this side and to the middle H x W of that.
    """

    value: _Name
    table: Annotated[NDArray[np.uint8], Tensor("uint8", 2)]
    mean: Annotated[tuple[float, ...], Floats()]
    std: Annotated[tuple[float, ...], Floats()]
    resize: _Size


_Values = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One step of the network.

    Attributes:
        name: Unique among the nodes; without meaning but for reports.
        input: Name of the value that is read.
        output: Name of the value that is made; None for the node that ends the network.
    """

    op: ClassVar[str]

    name: _Name
    input: _Name
    output: str | None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all values that are read."""
        return (self.input,)

    def output_shape(self, values: _Values) -> tuple[int, int, int]:
        """C, H, W of what is made; the fields hold together, or an ArtifactError is raised."""
        raise NotImplementedError

    def operations(self, values: _Values) -> Operations:
        """Multiplications and additions for one image, by their operands."""
        raise NotImplementedError

    def count(self, values: _Values) -> Count:
        """All multiplications and additions for one image."""
        return sum(self.operations(values).values(), Count())

    def work(self, values: _Values) -> int:
        """Upper bound of all that is done for one image: what is counted, read and written."""
        count = self.count(values)
        names = self.inputs if self.output is None else (*self.inputs, self.output)
        return count.mul + count.add + sum(values[name].elements for name in names)

    def _require(self, holds: bool, name: str, requirement: str) -> None:
        if not holds:
            raise artifact_error(f"{self.name}.{name}", requirement, getattr(self, name))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Map(Node):
    """A node that makes a value."""

    output: _Name


@dataclass(frozen=True, kw_only=True, eq=False)
class _Same(_Map):
    """A node whose output has the scale and zero of all that it reads."""

    def operations(self, values: _Values) -> Operations:
        """None: integers are compared or copied."""
        return {}


def _multiplies(*multipliers: int) -> int:
    """How many of the factors are neither zero nor a power of two up to the sign."""
    return sum(factor & (factor - 1) != 0 for factor in map(abs, multipliers))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layer(_Map):
    """Windows compared with filters, normalisation, residual and requantisation in one.

    `v = acc * multiplier[o] + offset[o] + residual_multiplier * q_residual` in 64 bits, and
    `q_out = clamp((v + (1 << (shift - 1))) >> shift, low, high)`, the shift rounding down. All that
    is constant is in `offset`, also `zero_out << shift` and `-residual_multiplier * zero_residual`.
    Padding reads as the zero of the input. Taps are `K = Kh * Kw * C / g`.

    Attributes:
        weight: `[O, Kh, Kw, C / g]`, uint8 of an adder layer, int8 of a convolution.
        low: Least output, 0..255; behind a ReLU it is the output's zero.
        high: Greatest output, `low`..255; `2**b - 1` for b bits.
        stride: Rows, columns.
        padding: Rows above and below, columns left and right, each below the kernel's.
        groups: Parts that channels and filters are divided into; filter o reads the channels of
            part `o // (O / g)`.
        multiplier: `i32[O]`, of any sign.
        offset: `i64[O]`.
        shift: 1..62.
        residual: Name of a value of the output's shape that is added, or None.
        residual_multiplier: Its factor, 32 bits; 0 without one.
    """

    weight: NDArray[Any]
    low: _U8
    high: _U8
    stride: _Sizes = (1, 1)
    padding: _Borders = (0, 0)
    groups: _Size = 1
    multiplier: Annotated[NDArray[np.int32], Tensor("int32", 1)]
    offset: Annotated[NDArray[np.int64], Tensor("int64", 1)]
    shift: _Shift
    residual: Annotated[str | None, Text(optional=True)] = None
    residual_multiplier: _I32 = 0

    # Largest magnitude that one tap adds to the accumulator.
    largest_product: ClassVar[int]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input and, where there is one, the residual."""
        return (self.input,) if self.residual is None else (self.input, self.residual)

    @property
    def taps(self) -> int:
        """K, the products or differences summed for one output."""
        return math.prod(self.weight.shape[1:])

    def output_shape(self, values: _Values) -> tuple[int, int, int]:
        """`[O, (H + 2 p - K) / stride + 1, ...]`."""
        channels = values[self.input].shape[0]
        filters, *kernel, depth = self.weight.shape
        self._require(min(self.weight.shape) > 0, "weight", "not be empty")
        self._require(max(self.weight.shape) <= MAX_SIDE, "weight", f"have sides <= {MAX_SIDE}")
        self._require(
            channels % self.groups == 0 and filters % self.groups == 0,
            "groups",
            f"divide the {channels} channels and {filters} filters",
        )
        self._require(
            depth * self.groups == channels,
            "weight",
            f"have {channels // self.groups} channels (last axis) in each of {self.groups} groups",
        )
        for name in ("multiplier", "offset"):
            self._require(getattr(self, name).shape == (filters,), name, f"have {filters} elements")
        _check_clamp(self, self.low, self.high)
        made = (filters, *_positions(self, values, kernel, self.stride, self.padding))
        largest = self.taps * self.largest_product
        self._require(
            largest < _ACCUMULATOR_LIMIT,
            "weight",
            f"have so few taps that {self.largest_product} times their number is below 2**31",
        )
        self._require(
            self.residual is not None or self.residual_multiplier == 0,
            "residual_multiplier",
            "be 0 without a residual",
        )
        offsets = np.maximum(self.offset, -(2**63 - 1))
        bound = (
            largest * int(np.abs(self.multiplier.astype(np.int64)).max())
            + int(np.abs(offsets).max())
            + 255 * abs(self.residual_multiplier)
            + (1 << (self.shift - 1))
        )
        _check_sum(self, bound)
        if self.residual is not None:
            shape = values[self.residual].shape
            if shape != made:
                raise artifact_error(
                    f"{self.name}.residual", f"have the output's shape {list(made)}", list(shape)
                )
        return made

    def _epilogue(self, values: _Values) -> Count:
        """Per output: one factor and one sum each for the accumulator and for the residual."""
        _, rows, columns = values[self.output].shape
        residuals = 0 if self.residual is None else self.weight.shape[0]
        factors = _multiplies(*self.multiplier.tolist())
        factors += residuals * _multiplies(self.residual_multiplier)
        return Count(
            mul=rows * columns * factors,
            add=rows * columns * (self.weight.shape[0] + residuals),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Adder2d(_Layer):
    """Adder layer: `acc = -sum |q_x - q_w|`. Input and weight share scale and zero."""

    op = "adder2d"
    largest_product = 255

    weight: Annotated[NDArray[np.uint8], Tensor("uint8", 4)]

    def operations(self, values: _Values) -> Operations:
        """Two additions a tap, the difference and its accumulation, and the epilogue."""
        pairs = Count(add=values[self.output].elements * self.taps)
        return {"int8": pairs, "int32": pairs + self._epilogue(values)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv2d(_Layer):
    """Convolution: `acc = sum q_x * q_w`; `-zero * sum q_w` is part of the offset."""

    op = "conv2d"
    largest_product = 255 * 128

    weight: Annotated[NDArray[np.int8], Tensor("int8", 4)]

    def operations(self, values: _Values) -> Operations:
        """A multiplication and an addition a tap, and the epilogue."""
        pairs = values[self.output].elements * self.taps
        return {"int8": Count(mul=pairs), "int32": Count(add=pairs) + self._epilogue(values)}


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(_Same):
    """Largest integer of each window, or the smallest in channels that are marked.

    Behind a negative normalisation factor the order is turned round. Padding never wins.

    Attributes:
        kernel: Kh, Kw.
        stride: Rows, columns.
        padding: Rows above and below, columns left and right, at most half of the kernel's.
        minimum: `u8[C]`, 1 for channels of which the smallest is taken, 0 for the others.
    """

    op = "max_pool"

    kernel: _Sizes
    stride: _Sizes
    padding: _Borders
    minimum: Annotated[NDArray[np.uint8], Tensor("uint8", 1)]

    def output_shape(self, values: _Values) -> tuple[int, int, int]:
        """`[C, (H + 2 p - Kh) / stride + 1, ...]`."""
        channels = values[self.input].shape[0]
        self._require(
            all(2 * border <= side for border, side in zip(self.padding, self.kernel, strict=True)),
            "padding",
            f"be at most half of the kernel {list(self.kernel)}",
        )
        self._require(
            self.minimum.shape == (channels,) and bool((self.minimum <= 1).all()),
            "minimum",
            f"have {channels} elements 0 or 1",
        )
        rows, columns = _positions(self, values, self.kernel, self.stride, self.padding)
        return channels, rows, columns

    def work(self, values: _Values) -> int:
        """A comparison per element, with the padding, each time that the window is halved."""
        channels, *sides = values[self.input].shape
        rows, columns = (a + 2 * b for a, b in zip(sides, self.padding, strict=True))
        halvings = sum((side - 1).bit_length() for side in self.kernel)
        return super().work(values) + channels * rows * columns * halvings


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(_Map):
    """Sum of each window, without padding, then the epilogue with scalars.

    `q_out = clamp((acc * multiplier + offset + (1 << (shift - 1))) >> shift, low, high)`; what the
    sum is divided by is in the multiplier.

    Attributes:
        kernel: Kh, Kw; H, W for the mean of the whole map.
        stride: Rows, columns.
        multiplier: 32 bits.
        offset: 64 bits.
        shift: 1..62.
        low: Least output.
        high: Greatest output.
    """

    op = "mean"

    kernel: _Sizes
    stride: _Sizes
    multiplier: _I32
    offset: _I64
    shift: _Shift
    low: _U8
    high: _U8

    def output_shape(self, values: _Values) -> tuple[int, int, int]:
        """`[C, (H - Kh) / stride + 1, ...]`."""
        channels = values[self.input].shape[0]
        _check_clamp(self, self.low, self.high)
        largest = math.prod(self.kernel) * 255
        self._require(largest < _ACCUMULATOR_LIMIT, "kernel", "have fewer than 2**31 / 255 taps")
        _check_sum(
            self, largest * abs(self.multiplier) + abs(self.offset) + (1 << (self.shift - 1))
        )
        rows, columns = _positions(self, values, self.kernel, self.stride, (0, 0))
        return channels, rows, columns

    def operations(self, values: _Values) -> Operations:
        """An addition a tap, then one factor and one sum per output."""
        outputs = values[self.output].elements
        count = Count(
            mul=outputs * _multiplies(self.multiplier),
            add=outputs * (math.prod(self.kernel) + 1),
        )
        return {"int32": count}


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(_Map):
    """Sum of two values of one shape, then the epilogue.

    `v = q_input * multiplier + q_other * other_multiplier + offset`, then shift and clamp.

    Attributes:
        other: Name of the second value.
        multiplier: Factor of `input`, 32 bits.
        other_multiplier: Factor of `other`, 32 bits.
        offset: 64 bits.
        shift: 1..62.
        low: Least output.
        high: Greatest output.
    """

    op = "add"

    other: _Name
    multiplier: _I32
    other_multiplier: _I32
    offset: _I64
    shift: _Shift
    low: _U8
    high: _U8

    @property
    def inputs(self) -> tuple[str, ...]:
        """Both values."""
        return self.input, self.other

    def output_shape(self, values: _Values) -> tuple[int, int, int]:
        """That of both."""
        shape = values[self.input].shape
        if values[self.other].shape != shape:
            raise artifact_error(
                f"{self.name}.other", f"have the shape {list(shape)}", values[self.other].shape
            )
        _check_clamp(self, self.low, self.high)
        factors = abs(self.multiplier) + abs(self.other_multiplier)
        _check_sum(self, 255 * factors + abs(self.offset) + (1 << (self.shift - 1)))
        return shape

    def operations(self, values: _Values) -> Operations:
        """Two factors and two sums per output."""
        outputs = values[self.output].elements
        factors = _multiplies(self.multiplier, self.other_multiplier)
        return {"int32": Count(mul=outputs * factors, add=outputs * 2)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Lut(_Map):
    """`q_out = table[c][q_in]`.

    Attributes:
        table: `u8[C, 256]`.
    """

    op = "lut"

    table: Annotated[NDArray[np.uint8], Tensor("uint8", 2)]

    def output_shape(self, values: _Values) -> tuple[int, int, int]:
        """That of the input."""
        shape = values[self.input].shape
        self._require(self.table.shape == (shape[0], 256), "table", f"be [{shape[0]}, 256]")
        return shape

    def operations(self, values: _Values) -> Operations:
        """None: integers are looked up."""
        return {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(_Same):
    """A border of the value's zero, for layers that are padded unevenly.

    Attributes:
        left: Columns before the first.
        right: Columns after the last.
        top: Rows above.
        bottom: Rows below.
    """

    op = "pad"

    left: _Border
    right: _Border
    top: _Border
    bottom: _Border

    def output_shape(self, values: _Values) -> tuple[int, int, int]:
        """`[C, H + top + bottom, W + left + right]`."""
        channels, rows, columns = values[self.input].shape
        return channels, rows + self.top + self.bottom, columns + self.left + self.right


@dataclass(frozen=True, kw_only=True, eq=False)
class Repeat(_Same):
    """Every position repeated `factor` times in both directions: nearest enlargement.

    Attributes:
        factor: At least 1.
    """

    op = "repeat"

    factor: _Size

    def output_shape(self, values: _Values) -> tuple[int, int, int]:
        """`[C, factor * H, factor * W]`."""
        channels, rows, columns = values[self.input].shape
        return channels, rows * self.factor, columns * self.factor


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(_Same):
    """Values side by side: their channels stacked in the order of `inputs`, then put in order.

    Attributes:
        others: Names of the values behind `input`, with its rows, columns, scale and zero.
        order: `i32[C]`, a permutation: channel c of the output is stacked channel `order[c]`.
    """

    op = "concat"

    others: _Names
    order: Annotated[NDArray[np.int32], Tensor("int32", 1)]

    @property
    def inputs(self) -> tuple[str, ...]:
        """All values, in the order in which they are stacked."""
        return self.input, *self.others

    def output_shape(self, values: _Values) -> tuple[int, int, int]:
        """`[C, H, W]`, C of all values together."""
        _, *sides = values[self.input].shape
        for other in self.others:
            if values[other].shape[1:] != tuple(sides):
                raise artifact_error(
                    f"{self.name}.others", f"have rows and columns {sides}", values[other].shape
                )
        channels = sum(values[name].shape[0] for name in self.inputs)
        self._require(
            np.array_equal(np.sort(self.order), np.arange(channels)),
            "order",
            f"be a permutation of 0..{channels - 1}",
        )
        return channels, sides[0], sides[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Node):
    """The classifier that ends every graph: logits in float32.

    `logits[o] = float32(acc[o]) * scale[o] + bias[o]`, rounded after each of the two, where
    `acc = sum q_x * q_w` over the map in the order H, W, C; `-zero * sum q_w` is part of the bias.

    Attributes:
        weight: `i8[O, H * W * C]`.
        scale: `f32[O]`.
        bias: `f32[O]`.
    """

    op = "linear"

    weight: Annotated[NDArray[np.int8], Tensor("int8", 2)]
    scale: Annotated[NDArray[np.float32], Tensor("float32", 1)]
    bias: Annotated[NDArray[np.float32], Tensor("float32", 1)]
    output: None = field(default=None, init=False)

    def output_shape(self, values: _Values) -> tuple[int, int, int]:
        """`[O, 1, 1]`."""
        taps = values[self.input].elements
        self._require(
            self.weight.shape[1] == taps and 1 <= len(self.weight) <= MAX_SIDE,
            "weight",
            f"have shape [1..{MAX_SIDE}, {taps}]",
        )
        filters = len(self.weight)
        for name in ("scale", "bias"):
            self._require(getattr(self, name).shape == (filters,), name, f"have {filters} elements")
        self._require(
            taps * 255 * 128 < _ACCUMULATOR_LIMIT, "weight", "have fewer than 2**31 / 32640 taps"
        )
        return filters, 1, 1

    def operations(self, values: _Values) -> Operations:
        """A multiplication and an addition a tap and, in float32, an output."""
        pairs, outputs = self.weight.size, len(self.weight)
        return {
            "int8": Count(mul=pairs),
            "int32": Count(add=pairs),
            "fp32": Count(mul=outputs, add=outputs),
        }


def _check_clamp(node: Node, low: int, high: int) -> None:
    if low > high:
        raise artifact_error(f"{node.name}.high", f"be at least low ({low})", high)


def _check_sum(node: Node, bound: int) -> None:
    if bound >= _SUM_LIMIT:
        raise artifact_error(f"{node.name}.multiplier", "keep the sum below 2**62", bound)


def _positions(
    node: Node,
    values: _Values,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[int, int]:
    """Rows and columns of windows that fit into the padded input."""
    _, *sides = values[node.input].shape
    for border, window in zip(padding, kernel, strict=True):
        if border >= window:
            raise artifact_error(
                f"{node.name}.padding", f"be below the kernel's {list(kernel)}", border
            )
    padded = [side + 2 * border for side, border in zip(sides, padding, strict=True)]
    for side, window in zip(padded, kernel, strict=True):
        if window > side:
            raise artifact_error(
                f"{node.name}.input", f"be as large as the window {list(kernel)}", sides
            )
    rows, columns = ((a - b) // c + 1 for a, b, c in zip(padded, kernel, stride, strict=True))
    return rows, columns


NODES: Mapping[str, type[Node]] = {
    kind.op: kind
    for kind in (Adder2d, Conv2d, MaxPool, Mean, Add, Lut, Pad, Repeat, Concat, Linear)
}
"""The kinds of node by the names they have in files."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A quantised network, from pixels to logits.

    Nodes run in the order given; the last is the only `Linear`.

    Attributes:
        name: What to call the network.
        input: How pictures become the first value.
        values: All values, in any order.
        nodes: All nodes.
        classes: Names of the outputs, or None if they have none.

    Raises:
        ArtifactError: It is not what is promised above: a field has the wrong type, shape or
            range, a name is unknown or used twice, a value is read before it is made, or never, or
            a sum could leave its number of bits.
    """

    name: _Name
    input: Input
    values: tuple[Value, ...]
    nodes: tuple[Node, ...]
    classes: Annotated[tuple[str, ...] | None, Labels()] = None

    def __post_init__(self) -> None:
        check_fields("graph", self)
        self._check_kinds()
        check_fields("input", self.input)
        for index, value in enumerate(self.values):
            check_fields(f"values[{index}]", value)
        for index, node in enumerate(self.nodes):
            check_fields(f"nodes[{index}]", node)
        _check_unique("values", (value.name for value in self.values))
        _check_unique("nodes", (node.name for node in self.nodes))
        self._check_order()
        self._check_input()
        self._check_shapes()
        self._check_sizes()
        self._check_work()
        self._check_classes()

    @functools.cached_property
    def by_name(self) -> Mapping[str, Value]:
        """The values by name."""
        return {value.name: value for value in self.values}

    @property
    def input_value(self) -> Value:
        """The value that pictures become."""
        return self.by_name[self.input.value]

    @property
    def outputs(self) -> int:
        """Number of logits."""
        last = self.nodes[-1]
        assert isinstance(last, Linear)
        return len(last.weight)

    def counts(self) -> tuple[Count, ...]:
        """Multiplications and additions of every node, for one image."""
        return tuple(node.count(self.by_name) for node in self.nodes)

    def _check_kinds(self) -> None:
        for name, kind in (("values", Value), ("nodes", tuple(NODES.values()))):
            items = getattr(self, name)
            if not isinstance(items, tuple) or not all(isinstance(item, kind) for item in items):
                raise artifact_error(name, f"be a tuple of {name}", items)
            if not 1 <= len(items) <= MAX_NODES:
                raise artifact_error(name, f"be 1 to {MAX_NODES}", len(items))
        if not isinstance(self.input, Input):
            raise artifact_error("input", "be an Input", self.input)

    def _check_order(self) -> None:
        """Every value is made once, before it is read, and read."""
        made, read = {self.input.value}, set()
        for node in self.nodes:
            for name in node.inputs:
                if name not in made:
                    raise artifact_error(f"{node.name}.input", "be made by an earlier node", name)
                read.add(name)
            if node.output is None:
                continue
            if node.output in made:
                raise artifact_error(f"{node.name}.output", "be made only once", node.output)
            made.add(node.output)
        ends = [index for index, node in enumerate(self.nodes) if isinstance(node, Linear)]
        if ends != [len(self.nodes) - 1]:
            raise artifact_error("nodes", "have one classifier, at the end", f"{len(ends)} of them")
        for name in sorted(made ^ set(self.by_name)):
            requirement = "be a declared value" if name in made else "be made by a node"
            raise artifact_error("values", requirement, name)
        for name in sorted(made - read):
            raise artifact_error("values", "be read by a node", name)

    def _check_input(self) -> None:
        channels, *sides = self.input_value.shape
        if self.input.table.shape != (channels, 256):
            raise artifact_error("input.table", f"be [{channels}, 256]", self.input.table)
        for name in ("mean", "std"):
            if len(getattr(self.input, name)) != channels:
                raise artifact_error(
                    f"input.{name}", f"have {channels} elements", getattr(self.input, name)
                )
        if min(self.input.std) <= 0.0:
            raise artifact_error("input.std", "be positive", self.input.std)
        if self.input.resize < max(sides):
            raise artifact_error(
                "input.resize", f"be at least the input's side {max(sides)}", self.input.resize
            )

    def _check_shapes(self) -> None:
        for node in self.nodes:
            shape = node.output_shape(self.by_name)
            if node.output is None:
                continue
            made = self.by_name[node.output]
            if made.shape != shape:
                raise artifact_error(
                    f"{made.name}.shape", f"be {shape} as {node.name} makes", made.shape
                )
            meaning = (made.scale, made.zero)
            for source in (self.by_name[name] for name in node.inputs):
                if isinstance(node, _Same) and meaning != (source.scale, source.zero):
                    raise artifact_error(
                        made.name, f"have scale and zero of {source.name}", meaning
                    )

    def _check_sizes(self) -> None:
        """Each value with the widest borders that its readers ask for fits into memory."""
        borders = {value.name: (0, 0) for value in self.values}
        for node in self.nodes:
            if isinstance(node, (_Layer, MaxPool)):
                rows, columns = borders[node.input]
                borders[node.input] = max(rows, node.padding[0]), max(columns, node.padding[1])
        for value in self.values:
            channels, rows, columns = value.shape
            row_border, column_border = borders[value.name]
            elements = channels * (rows + 2 * row_border) * (columns + 2 * column_border)
            if elements > MAX_ELEMENTS:
                raise artifact_error(
                    f"{value.name}.shape",
                    f"have at most {MAX_ELEMENTS} elements with its borders",
                    value.shape,
                )

    def _check_work(self) -> None:
        work = sum(node.work(self.by_name) for node in self.nodes)
        if work > MAX_WORK:
            raise artifact_error("nodes", f"take at most {MAX_WORK} operations for one image", work)

    def _check_classes(self) -> None:
        if self.classes is not None and len(self.classes) != self.outputs:
            raise artifact_error("classes", f"have {self.outputs} names", len(self.classes))


def _check_unique(what: str, names: Iterator[str]) -> None:
    ordered = sorted(names)
    for name, following in itertools.pairwise(ordered):
        if name == following:
            raise artifact_error(what, "have names of their own", name)
