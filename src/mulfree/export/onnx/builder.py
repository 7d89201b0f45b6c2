"""ONNX nodes, and the adder layer as nodes of the standard, shared by both exports.

Legend: N images, C channels, O filters, K taps of a filter, P output positions, G groups.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
"""The oldest version of the standard operators that has all that is used here."""

IR_VERSION = 8
"""The version of the file format that came with it."""

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Window:
    """Geometry of a layer, for one image.

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


class Nodes:
    """Collects nodes and constants under names of their own.

    Called with an operator, names of inputs and attributes, it adds a node and gives its output's
    name.
    """

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._prefix = prefix
        self._numbers = itertools.count()

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        output = self.fresh(operator)
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def fresh(self, what: str) -> str:
        """A name that no node has."""
        return f"{self._prefix}{what}_{next(self._numbers)}"

    def constant(self, array: NDArray[Any]) -> str:
        """An array, kept once however often it is used."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.fresh("constant")
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def integers(self, *values: int) -> str:
        """A vector of 64-bit integers: shapes, axes and bounds."""
        return self.constant(np.array(values, np.int64))


def padded(add: Nodes, x: str, padding: tuple[int, int, int, int], fill: np.generic) -> str:
    """`[N, C, H, W]` with a border (top, left, bottom, right) of `fill`."""
    if not any(padding):
        return x
    top, left, bottom, right = padding
    border = add.integers(0, 0, top, left, 0, 0, bottom, right)
    return add("Pad", x, border, add.constant(np.array(fill)))


def columns(add: Nodes, x: str, window: Window, fill: np.generic) -> str:
    """What every filter sees, `[N, G, K, 1, P]`: taps row by row, channels within a tap.

    Args:
        add: Where nodes go.
        x: `[N, C, H, W]`.
        window: The geometry.
        fill: What padding is filled with, of the dtype of `x`.
    """
    rows, cols = window.padding
    x = padded(add, x, (rows, cols, rows, cols), fill)
    depth = window.channels // window.groups
    height, width = window.size[0] + 2 * rows, window.size[1] + 2 * cols
    x = add("Reshape", x, add.integers(0, window.groups, depth, height, width))
    axes, steps = add.integers(3, 4), add.integers(*window.stride)
    seen = []
    for tap in itertools.product(*map(range, window.kernel)):
        start = [index * step for index, step in zip(tap, window.dilation, strict=True)]
        end = [
            first + (count - 1) * stride + 1
            for first, count, stride in zip(start, window.output, window.stride, strict=True)
        ]
        seen.append(add("Slice", x, add.integers(*start), add.integers(*end), axes, steps))
    joined = seen[0] if len(seen) == 1 else add("Concat", *seen, axis=2)
    shape = (0, window.groups, window.taps, 1, math.prod(window.output))
    return add("Reshape", joined, add.integers(*shape))


def adder2d(
    add: Nodes,
    seen: str,
    weight: str,
    window: Window,
    *,
    read: int,
    computed: int,
    norm: float = 1.0,
) -> str:
    """The adder layer `-sum |x - w|^norm`, `[N, O, H_out, W_out]`.

    A Scan over the taps adds to all outputs at a time, so that besides the windows no tensor is
    larger than the output. Floats are summed in blocks, whose sums are then summed, so that the
    error grows with the square root of what it would be.

    Args:
        add: Where nodes go.
        seen: What every filter sees, `[N, G, K, 1, P]`.
        weight: `[K, G, O / G, 1]`.
        window: The geometry.
        read: ONNX type of `seen`.
        computed: ONNX type of `weight` and of the result.
        norm: Exponent.
    """
    groups, filters = window.groups, window.filters // window.groups
    positions = math.prod(window.output)
    images = add("Shape", seen, start=0, end=1)
    shape = add("Concat", images, add.integers(groups, filters, positions), axis=0)
    zeros = add("ConstantOfShape", shape, value=helper.make_tensor("zero", computed, [1], [0]))

    def distance(inside: Nodes, x: str, w: str) -> str:
        x = x if read == computed else inside("Cast", x, to=computed)
        apart = inside("Abs", inside("Sub", x, w))
        if norm == 1.0:
            return apart
        exponent = helper.make_tensor("exponent", TensorProto.FLOAT, [], [norm])
        return inside("Pow", apart, inside("Constant", value=exponent))

    def block(inside: Nodes, x: str, w: str) -> str:
        return _sum(inside, zeros, x, w, distance, read=read, computed=computed)

    # Along the first axis, which every implementation of Scan knows.
    seen = add("Transpose", seen, perm=[2, 0, 1, 3, 4])
    blocks = 1 if computed == TensorProto.INT32 else _divisor(window.taps)
    if blocks > 1:
        size = window.taps // blocks
        seen = add("Reshape", seen, add.integers(blocks, size, -1, groups, 1, positions))
        weight = add("Reshape", weight, add.integers(blocks, size, groups, filters, 1))
    term = distance if blocks == 1 else block
    total = _sum(add, zeros, seen, weight, term, read=read, computed=computed)
    return add("Reshape", add("Neg", total), add.integers(0, window.filters, *window.output))


def _sum(
    add: Nodes,
    zeros: str,
    seen: str,
    weight: str,
    term: Callable[[Nodes, str, str], str],
    *,
    read: int,
    computed: int,
) -> str:
    """`sum term(x, w)` over the first axes of `seen` and `weight`."""
    # Names inside must differ from all names outside.
    inside = Nodes(add.fresh("sum") + "/")
    sum, x, w = (inside.fresh(name) for name in ("sum", "x", "w"))
    total = inside("Add", sum, term(inside, x, w))
    inputs = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in ((sum, computed), (x, read), (w, computed))
    ]
    outputs = [helper.make_tensor_value_info(total, computed, None)]
    body = helper.make_graph(inside.nodes, "sum", inputs, outputs, inside.constants)
    return add("Scan", zeros, seen, weight, body=body, num_scan_inputs=2)


def _divisor(number: int) -> int:
    """The largest divisor up to the square root."""
    return next(size for size in range(math.isqrt(number), 0, -1) if number % size == 0)
