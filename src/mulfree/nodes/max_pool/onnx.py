"""ONNX nodes of max pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from mulfree.nodes.emitting import Made
from mulfree.nodes.max_pool import MaxPool
from mulfree.nodes.node import Values

if TYPE_CHECKING:
    from mulfree.export.onnx.builder import GraphBuilder


def emit(add: GraphBuilder, node: MaxPool, values: Values, made: Made) -> str:
    """Add the nodes; return the name of the output."""
    x = made[node.input]
    # The minimum is 255 minus the maximum of 255 minus x.
    flips = 255 * node.minimum.astype(np.int32)[:, None, None]
    if flips.any():
        x = _distance(add, x, flips)
    x = add(
        "MaxPool",
        x,
        kernel_shape=node.kernel,
        strides=node.stride,
        pads=node.padding * 2,
    )
    return _distance(add, x, flips) if flips.any() else x


def _distance(add: GraphBuilder, x: str, other: NDArray[np.int32]) -> str:
    difference = add("Sub", add("Cast", x, to=TensorProto.INT32), add.constant(other))
    return add("Cast", add("Abs", difference), to=TensorProto.UINT8)
