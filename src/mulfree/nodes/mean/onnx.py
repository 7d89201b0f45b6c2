"""ONNX nodes of average pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from mulfree.nodes.emitting import Made, requantised, scaled
from mulfree.nodes.mean import Mean
from mulfree.nodes.node import Value, Values
from mulfree.nodes.sliding import ConvGeometry

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: Mean, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the output."""
    v = scaled(add, _sums(add, made[node.input], values[node.input], node), node.multiplier)
    return requantised(add, v, node.offset, node.shift, node.clamp_min, node.clamp_max)


def _sums(add: GraphBuilder, x: str, source: Value, node: Mean) -> str:
    """Add the sums over windows, `i32[N, C, H_out, W_out]`: every channel is a group."""
    channels, *sides = source.shape
    if list(node.kernel) == sides:
        axes = add.integers(2, 3)
        return add("ReduceSum", add("Cast", x, to=TensorProto.INT32), axes)
    geometry = ConvGeometry(
        channels=channels,
        size=source.shape[1:],
        filters=channels,
        kernel=node.kernel,
        stride=node.stride,
        groups=channels,
    )
    windows = add.columns(x, geometry, np.uint8(0))
    axes = add.integers(2)
    sums = add("ReduceSum", add("Cast", windows, to=TensorProto.INT32), axes)
    return add("Reshape", sums, add.integers(0, channels, *geometry.output))
