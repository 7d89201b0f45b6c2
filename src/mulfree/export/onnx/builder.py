"""Builder of ONNX graphs, shared by both exports and passed to the emitters of nodes.

Legend: N images, C channels, O filters, K taps of a filter, P output positions, G groups.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mulfree.nodes.sliding import ConvGeometry

OPSET = 18
"""The oldest version of the standard operators with all operators that are used here."""

IR_VERSION = 8
"""The version of the file format that came with it."""


class GraphBuilder:
    """Collects nodes and constants under unique names.

    A call with an operator, names of inputs and attributes adds a node and returns the name of its
    output.
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
        """Return a name that no node has."""
        return f"{self._prefix}{what}_{next(self._numbers)}"

    def constant(self, array: NDArray[Any]) -> str:
        """Return the name of a constant; equal arrays are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.fresh("constant")
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def integers(self, *values: int) -> str:
        """Return the name of a vector of 64-bit integers: shapes, axes and bounds."""
        return self.constant(np.array(values, np.int64))

    def nested(self, what: str) -> GraphBuilder:
        """Return a builder of a subgraph, whose names differ from all names outside."""
        return GraphBuilder(f"{self.fresh(what)}/")

    def padded(self, x: str, padding: tuple[int, int, int, int], fill: np.generic) -> str:
        """Add a border to `[N, C, H, W]`, (top, left, bottom, right) filled with `fill`."""
        if not any(padding):
            return x
        top, left, bottom, right = padding
        border = self.integers(0, 0, top, left, 0, 0, bottom, right)
        return self("Pad", x, border, self.constant(np.array(fill)))

    def columns(self, x: str, geometry: ConvGeometry, fill: np.generic) -> str:
        """Add the inputs of every filter, `[N, G, K, 1, P]`: taps by rows, channels within a tap.

        Args:
            x: `[N, C, H, W]`.
            geometry: The geometry.
            fill: Value of the padding, of the dtype of `x`.
        """
        rows, cols = geometry.padding
        x = self.padded(x, (rows, cols, rows, cols), fill)
        depth = geometry.channels // geometry.groups
        height, width = geometry.size[0] + 2 * rows, geometry.size[1] + 2 * cols
        x = self("Reshape", x, self.integers(0, geometry.groups, depth, height, width))
        axes, steps = self.integers(3, 4), self.integers(*geometry.stride)
        windows = []
        for tap in itertools.product(*map(range, geometry.kernel)):
            start = [index * step for index, step in zip(tap, geometry.dilation, strict=True)]
            places = zip(start, geometry.output, geometry.stride, strict=True)
            end = [first + (count - 1) * stride + 1 for first, count, stride in places]
            bounds = self.integers(*start), self.integers(*end)
            windows.append(self("Slice", x, *bounds, axes, steps))
        joined = windows[0] if len(windows) == 1 else self("Concat", *windows, axis=2)
        shape = (0, geometry.groups, geometry.taps, 1, math.prod(geometry.output))
        return self("Reshape", joined, self.integers(*shape))
