"""A quantised graph as ONNX: the integers of `mulfree.runtime.reference`, bit for bit.

Values are `u8[N, C, H, W]`. Sums are 32 bits wide, normalisation and requantisation 64 bits, as in
the definition.

Convolutions use weights raised by 128, with that as their zero: on processors without dot
products of bytes, ONNX Runtime sums pairs of u8 x s8 in 16 bits, which saturate.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

import mulfree
from mulfree.export.onnx import builder as nodes
from mulfree.export.onnx.facts import set_facts
from mulfree.export.onnx.builder import IR_VERSION, OPSET, Nodes, Window
from mulfree.runtime.graph import (
    Add,
    Adder2d,
    Concat,
    Conv2d,
    Graph,
    Linear,
    Lut,
    MaxPool,
    Mean,
    Node,
    Pad,
    Repeat,
    Value,
)

PIXELS, IMAGES, LOGITS = "pixels", "images", "logits"

_RAISED_WEIGHT = 128


def to_model(graph: Graph, *, pixels: bool) -> onnx.ModelProto:
    """The ONNX model of a graph, for any number of images.

    Args:
        graph: The network.
        pixels: Whether the input is `pixels`, uint8, or `images`, float32 and normalised.

    Returns:
        A model from `[N, C, H, W]` to `logits`, float32 `[N, classes]`.
    """
    add = Nodes()
    given = PIXELS if pixels else IMAGES
    first = _looked_up(add, PIXELS, graph.input.table) if pixels else _quantised(add, graph)
    made = {graph.input.value: first}
    for node in graph.nodes:
        output = _emit(add, node, graph.by_name, made)
        made[node.output or LOGITS] = output
    add.nodes[-1].output[0] = LOGITS
    kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    shapes: tuple[list[str | int | None], ...] = (
        ["batch", *graph.input_value.shape],
        ["batch", graph.outputs],
    )
    inputs = [helper.make_tensor_value_info(given, kind, shapes[0])]
    outputs = [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, shapes[1])]
    model = helper.make_model(
        helper.make_graph(add.nodes, graph.name, inputs, outputs, add.constants),
        producer_name="mulfree",
        producer_version=mulfree.__version__,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    images = graph.input
    set_facts(model, mean=images.mean, std=images.std, resize=images.resize, classes=graph.classes)
    return model


def _quantised(add: Nodes, graph: Graph) -> str:
    """`clamp(round(x / scale) + zero, 0, 255)`, half to even; not-a-number gives 0."""
    value = graph.input_value
    steps = add("Div", IMAGES, add.constant(np.array(value.scale, np.float32)))
    shifted = add("Add", add("Round", steps), add.constant(np.array(value.zero, np.float32)))
    nothing, full = (add.constant(np.array(bound, np.float32)) for bound in (0, 255))
    clipped = add("Clip", add("Where", add("IsNaN", shifted), nothing, shifted), nothing, full)
    return add("Cast", clipped, to=TensorProto.UINT8)


def _looked_up(add: Nodes, x: str, table: NDArray[np.uint8]) -> str:
    """`table[c][x]`: one table after the other, each channel with the start of its own."""
    starts = 256 * np.arange(len(table), dtype=np.int32)[:, None, None]
    index = add("Add", add("Cast", x, to=TensorProto.INT32), add.constant(starts))
    return add("Gather", add.constant(table.reshape(-1)), index, axis=0)


def _emit(add: Nodes, node: Node, values: Mapping[str, Value], made: Mapping[str, str]) -> str:
    """Add the nodes of one node; the name of its result."""
    x, source = made[node.input], values[node.input]
    match node:
        case Adder2d() | Conv2d():
            sums = (
                _adder2d(add, x, source, node)
                if isinstance(node, Adder2d)
                else (_conv2d(add, x, source, node))
            )
            factors, offsets = (
                array.astype(np.int64)[:, None, None] for array in (node.multiplier, node.offset)
            )
            v = _scaled(add, sums, factors)
            if node.residual is not None:
                factor = np.array(node.residual_multiplier, np.int64)
                v = add("Add", v, _scaled(add, made[node.residual], factor))
            return _requantised(add, v, offsets, node.shift, node.low, node.high)
        case MaxPool():
            return _max_pool(add, x, node)
        case Mean():
            sums = _window_sums(add, x, source, node)
            v = _scaled(add, sums, np.array(node.multiplier, np.int64))
            offset = np.array(node.offset, np.int64)
            return _requantised(add, v, offset, node.shift, node.low, node.high)
        case Add():
            v = add(
                "Add",
                _scaled(add, x, np.array(node.multiplier, np.int64)),
                _scaled(add, made[node.other], np.array(node.other_multiplier, np.int64)),
            )
            offset = np.array(node.offset, np.int64)
            return _requantised(add, v, offset, node.shift, node.low, node.high)
        case Lut():
            return _looked_up(add, x, node.table)
        case Pad():
            border = (node.top, node.left, node.bottom, node.right)
            return nodes.padded(add, x, border, np.uint8(source.zero))
        case Repeat():
            for axis, side in ((2, source.shape[1]), (3, source.shape[2])):
                index = np.arange(side, dtype=np.int64).repeat(node.factor)
                x = add("Gather", x, add.constant(index), axis=axis)
            return x
        case Concat():
            x = add("Concat", *(made[name] for name in node.inputs), axis=1)
            return add("Gather", x, add.constant(node.order), axis=1)
        case Linear():
            return _linear(add, x, source, node)
    raise TypeError(f"no ONNX nodes for {type(node).__name__}")


def _scaled(add: Nodes, x: str, factor: NDArray[np.int64]) -> str:
    """`x * factor` in 64 bits."""
    return add("Mul", add("Cast", x, to=TensorProto.INT64), add.constant(factor))


def _requantised(
    add: Nodes, v: str, offset: NDArray[np.int64], shift: int, low: int, high: int
) -> str:
    """`clamp((v + offset + 2**(shift - 1)) >> shift, low, high)`.

    The standard shifts no signed integers. Its division rounds towards zero and not down, which
    makes a difference below zero only, where both are clamped to `low`.
    """
    rounded = add("Add", v, add.constant(offset + (1 << (shift - 1))))
    shifted = add("Div", rounded, add.constant(np.array(1 << shift, np.int64)))
    bounds = (add.constant(np.array(bound, np.int64)) for bound in (low, high))
    return add("Cast", add("Clip", shifted, *bounds), to=TensorProto.UINT8)


def _adder2d(add: Nodes, x: str, source: Value, node: Adder2d) -> str:
    filters, *kernel, _ = node.weight.shape
    window = Window(
        channels=source.shape[0],
        size=source.shape[1:],
        filters=filters,
        kernel=(kernel[0], kernel[1]),
        stride=node.stride,
        padding=node.padding,
        groups=node.groups,
    )
    seen = nodes.columns(add, x, window, np.uint8(source.zero))
    weight = node.weight.reshape(node.groups, filters // node.groups, window.taps, 1)
    taps_first = weight.transpose(2, 0, 1, 3).astype(np.int32)
    kinds = {"read": TensorProto.UINT8, "computed": TensorProto.INT32}
    return nodes.adder2d(add, seen, add.constant(taps_first), window, **kinds)


def _conv2d(add: Nodes, x: str, source: Value, node: Conv2d) -> str:
    rows, columns = node.padding
    x = nodes.padded(add, x, (rows, columns, rows, columns), np.uint8(source.zero))
    weight = add.constant(_raised(node.weight.transpose(0, 3, 1, 2)))
    return add(
        "ConvInteger",
        x,
        weight,
        add.constant(np.array(0, np.uint8)),
        add.constant(np.array(_RAISED_WEIGHT, np.uint8)),
        strides=node.stride,
        group=node.groups,
    )


def _raised(weight: NDArray[np.int8]) -> NDArray[np.uint8]:
    raised = weight.astype(np.int16) + _RAISED_WEIGHT
    return np.ascontiguousarray(raised.astype(np.uint8))


def _max_pool(add: Nodes, x: str, node: MaxPool) -> str:
    """The minimum is 255 minus the maximum of 255 minus x."""
    turned = 255 * node.minimum.astype(np.int32)[:, None, None]
    if turned.any():
        x = _distance(add, x, turned)
    x = add(
        "MaxPool",
        x,
        kernel_shape=node.kernel,
        strides=node.stride,
        pads=node.padding * 2,
    )
    return _distance(add, x, turned) if turned.any() else x


def _distance(add: Nodes, x: str, other: NDArray[np.int32]) -> str:
    difference = add("Sub", add("Cast", x, to=TensorProto.INT32), add.constant(other))
    return add("Cast", add("Abs", difference), to=TensorProto.UINT8)


def _window_sums(add: Nodes, x: str, source: Value, node: Mean) -> str:
    """Sums over windows, `i32[N, C, H_out, W_out]`: every channel is a group."""
    channels = source.shape[0]
    window = Window(
        channels=channels,
        size=source.shape[1:],
        filters=channels,
        kernel=node.kernel,
        stride=node.stride,
        groups=channels,
    )
    whole = node.kernel == source.shape[1:]
    seen = x if whole else nodes.columns(add, x, window, np.uint8(0))
    axes = add.integers(*((2, 3) if whole else (2,)))
    sums = add("ReduceSum", add("Cast", seen, to=TensorProto.INT32), axes)
    return sums if whole else add("Reshape", sums, add.integers(0, channels, *window.output))


def _linear(add: Nodes, x: str, source: Value, node: Linear) -> str:
    channels, height, width = source.shape
    weight = node.weight.reshape(-1, height, width, channels).transpose(3, 1, 2, 0)
    matrix = _raised(weight.reshape(-1, len(node.weight)))
    sums = add(
        "MatMulInteger",
        add("Flatten", x),
        add.constant(matrix),
        add.constant(np.array(0, np.uint8)),
        add.constant(np.array(_RAISED_WEIGHT, np.uint8)),
    )
    scaled = add("Mul", add("Cast", sums, to=TensorProto.FLOAT), add.constant(node.scale))
    return add("Add", scaled, add.constant(node.bias))
