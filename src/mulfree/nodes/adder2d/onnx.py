"""ONNX nodes of the adder layer: the integer node, and the sums that float networks share.

Legend: N images, C channels, O filters, K taps of a filter, P output positions, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from mulfree.nodes.adder2d import Adder2d
from mulfree.nodes.emitting import Made, normalised
from mulfree.nodes.node import Values
from mulfree.nodes.sliding import ConvGeometry

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Adder2d, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the output."""
    source = values[node.input]
    filters, rows, columns, _ = node.weight.shape
    channels, height, width = source.shape
    top, left, bottom, right = node.margins
    x = add.padded(made[node.input], node.margins, np.uint8(source.zero_point))
    geometry = ConvGeometry(
        channels=channels,
        size=(height + top + bottom, width + left + right),
        filters=filters,
        kernel=(rows, columns),
        stride=node.stride,
        groups=node.groups,
    )
    windows = add.columns(x, geometry, np.uint8(source.zero_point))
    weight = node.weight.reshape(node.groups, filters // node.groups, node.taps, 1)
    taps_first = add.constant(weight.transpose(2, 0, 1, 3).astype(np.int32))
    types = {"read": TensorProto.UINT8, "computed": TensorProto.INT32}
    return normalised(add, node, distances(add, windows, taps_first, geometry, **types), made)


def distances(
    add: GraphBuilder,
    windows: str,
    weight: str,
    geometry: ConvGeometry,
    *,
    read: int,
    computed: int,
    norm: float = 1.0,
) -> str:
    """Add `-sum |x - w|^norm`, `[N, O, H_out, W_out]`.

    A Scan over the taps adds to all outputs at a time, so that besides the windows no tensor is
    larger than the output. Floats are summed in blocks and the sums of the blocks then: the error
    grows with the square root of the error of one running sum.

    Args:
        add: The builder.
        windows: Inputs of every filter, `[N, G, K, 1, P]`.
        weight: `[K, G, O / G, 1]`.
        geometry: The geometry.
        read: ONNX type of `windows`.
        computed: ONNX type of `weight` and of the result.
        norm: Exponent.
    """
    groups, filters = geometry.groups, geometry.filters // geometry.groups
    positions = math.prod(geometry.output)
    images = add("Shape", windows, start=0, end=1)
    shape = add("Concat", images, add.integers(groups, filters, positions), axis=0)
    zeros = add("ConstantOfShape", shape, value=helper.make_tensor("zero", computed, [1], [0]))

    def distance(inside: GraphBuilder, x: str, w: str) -> str:
        x = x if read == computed else inside("Cast", x, to=computed)
        apart = inside("Abs", inside("Sub", x, w))
        if norm == 1.0:
            return apart
        exponent = helper.make_tensor("exponent", TensorProto.FLOAT, [], [norm])
        return inside("Pow", apart, inside("Constant", value=exponent))

    def block(inside: GraphBuilder, x: str, w: str) -> str:
        return _sum(inside, zeros, x, w, distance, read=read, computed=computed)

    # Every implementation of Scan supports the first axis.
    windows = add("Transpose", windows, perm=[2, 0, 1, 3, 4])
    blocks = 1 if computed == TensorProto.INT32 else _divisor(geometry.taps)
    if blocks > 1:
        size = geometry.taps // blocks
        windows = add("Reshape", windows, add.integers(blocks, size, -1, groups, 1, positions))
        weight = add("Reshape", weight, add.integers(blocks, size, groups, filters, 1))
    term = distance if blocks == 1 else block
    total = _sum(add, zeros, windows, weight, term, read=read, computed=computed)
    return add("Reshape", add("Neg", total), add.integers(0, geometry.filters, *geometry.output))


def _sum(
    add: GraphBuilder,
    zeros: str,
    windows: str,
    weight: str,
    term: Callable[[GraphBuilder, str, str], str],
    *,
    read: int,
    computed: int,
) -> str:
    """Add `sum term(x, w)` over the first axes of `windows` and `weight`."""
    inside = add.nested("sum")
    sum, x, w = (inside.fresh(name) for name in ("sum", "x", "w"))
    total = inside("Add", sum, term(inside, x, w))
    inputs = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in ((sum, computed), (x, read), (w, computed))
    ]
    outputs = [helper.make_tensor_value_info(total, computed, None)]
    body = helper.make_graph(inside.nodes, "sum", inputs, outputs, inside.constants)
    return add("Scan", zeros, windows, weight, body=body, num_scan_inputs=2)


def _divisor(number: int) -> int:
    """Return the largest divisor up to the square root."""
    return next(size for size in range(math.isqrt(number), 0, -1) if number % size == 0)
