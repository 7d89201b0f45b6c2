"""The arithmetic of a graph in numpy, slow and plain: the definition of every bit.

Everything else that runs a graph (native kernels, ONNX) equals this exactly. A value is an array
`u8[N, H, W, C]`. Legend: N images, C channels, H W rows and columns, O filters, Kh Kw window, g
groups, h w rows and columns of the output.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import DTypeError, ShapeError
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

U8 = NDArray[np.uint8]
Pair = tuple[int, int]


def run(graph: Graph, array: NDArray[Any]) -> NDArray[np.float32]:
    """Logits of pictures, one image at a time in exact integer arithmetic.

    Args:
        graph: The network.
        array: `[N, C, H, W]` or `[C, H, W]`: uint8 pixels, or float32 normalised as `Input` says.

    Returns:
        `[N, O]`.

    Raises:
        ShapeError: The array is not of the graph's input shape.
        DTypeError: It is neither uint8 nor float32.
    """
    last = graph.nodes[-1]
    assert isinstance(last, Linear)
    return linear(trace(graph, array)[last.input], last)


def trace(graph: Graph, array: NDArray[Any]) -> dict[str, U8]:
    """All values of a run, `u8[N, H, W, C]` by name; see `run`."""
    made = {graph.input.value: quantised_input(graph, array)}
    for node in graph.nodes:
        if node.output is not None:
            made[node.output] = evaluate(node, graph.by_name[node.input], made)
    return made


def checked_input(graph: Graph, array: NDArray[Any]) -> NDArray[Any]:
    """The array as `[N, C, H, W]`, if it fits the graph.

    Raises:
        ShapeError: The array is not of the graph's input shape.
        DTypeError: It is neither uint8 nor float32.
    """
    array = _plain(array)
    shape, given = graph.input_value.shape, array.shape
    if len(given) not in (3, 4) or given[-3:] != shape:
        raise ShapeError(
            f"Session.run: `array` must have shape [N, {', '.join(map(str, shape))}], "
            f"got {list(given)}"
        )
    if array.dtype not in (np.uint8, np.float32):
        raise DTypeError(
            f"Session.run: `array` must be a uint8 or float32 array, got {array.dtype}"
        )
    return array.reshape(-1, *shape)


def _plain(array: Any) -> NDArray[Any]:
    """An array, or what numpy sees as one without a copy, such as a tensor of torch."""
    if hasattr(array, "__array__") and not isinstance(array, np.ma.MaskedArray):
        try:
            return np.asarray(array)
        except (RuntimeError, TypeError, ValueError) as error:
            raise DTypeError(
                "Session.run: `array` must be an array, or a tensor that numpy can read "
                f"(tensor.detach().cpu().numpy()), got {type(array).__name__} ({error})"
            ) from error
    raise DTypeError(
        f"Session.run: `array` must be a uint8 or float32 array, got {type(array).__name__}"
    )


def quantised_input(graph: Graph, array: NDArray[Any]) -> U8:
    """The first value: pixels through the table, or normalised float32 rounded to steps."""
    array = checked_input(graph, array)
    if array.dtype == np.uint8:
        channels = np.arange(array.shape[1])[:, None, None]
        made = graph.input.table[channels, array]
    else:
        made = quantise(array, graph.input_value)
    return np.ascontiguousarray(made.transpose(0, 2, 3, 1))


def quantise(
    array: NDArray[np.float32],
    value: Value,
    *,
    steps: NDArray[np.float32] | None = None,
    out: U8 | None = None,
) -> U8:
    """`clamp(round(x / scale) + zero, 0, 255)` in float32, half to even; not-a-number gives 0.

    Args:
        array: Real numbers.
        value: What they are to become.
        steps: Memory to work in, of the array's shape; new by default.
        out: Memory for the result, likewise.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.divide(array, np.float32(value.scale), out=steps)
        np.rint(steps, out=steps)
        steps += np.float32(value.zero)
    # fmax, unlike maximum, prefers the number to what is none.
    np.fmax(steps, np.float32(0), out=steps)
    np.fmin(steps, np.float32(255), out=steps)
    if out is None:
        out = np.empty(array.shape, np.uint8)
    np.copyto(out, steps, casting="unsafe")
    return out


def evaluate(node: Node, source: Value, made: dict[str, U8]) -> U8:
    """The value that a node makes of the values `made` so far.

    Args:
        node: Any node but the last.
        source: Description of the value that it reads.
        made: Values by name.
    """
    x = made[node.input]
    match node:
        case Adder2d() | Conv2d():
            v = _accumulator(node, x, source.zero).astype(np.int64) * node.multiplier + node.offset
            if node.residual is not None:
                v += node.residual_multiplier * made[node.residual].astype(np.int64)
            return requantise(v, node.shift, node.low, node.high)
        case MaxPool():
            return max_pool(x, node)
        case Mean():
            v = sums(x, node.kernel, node.stride) * node.multiplier + node.offset
            return requantise(v, node.shift, node.low, node.high)
        case Add():
            v = x.astype(np.int64) * node.multiplier + node.offset
            v += made[node.other].astype(np.int64) * node.other_multiplier
            return requantise(v, node.shift, node.low, node.high)
        case Lut():
            return node.table[np.arange(x.shape[3]), x]
        case Pad():
            border = ((0, 0), (node.top, node.bottom), (node.left, node.right), (0, 0))
            return np.pad(x, border, constant_values=source.zero)
        case Repeat():
            return x.repeat(node.factor, axis=1).repeat(node.factor, axis=2)
        case Concat():
            return np.concatenate([made[name] for name in node.inputs], axis=3)[..., node.order]
    raise TypeError(f"no arithmetic for {type(node).__name__}")


def _accumulator(node: Adder2d | Conv2d, x: U8, zero: int) -> NDArray[np.int32]:
    if isinstance(node, Adder2d):
        return adder2d(x, node.weight, node.stride, node.padding, node.groups, zero=zero)
    return conv2d(x, node.weight, node.stride, node.padding, node.groups, zero=zero)


def adder2d(
    x: U8, weight: U8, stride: Pair, padding: Pair, groups: int, *, zero: int
) -> NDArray[np.int32]:
    """Accumulator of an adder layer, `acc = -sum |q_x - q_w|` over the taps.

    Args:
        x: `[N, H, W, C]`.
        weight: `[O, Kh, Kw, C / g]`.
        stride: Rows, columns.
        padding: Rows above and below, columns left and right; filled with `zero`.
        groups: g.
        zero: The integer that stands for 0.

    Returns:
        `[N, h, w, O]`.
    """
    sums = [
        -np.abs(seen.astype(np.int32) - taps).sum(axis=(3, 4, 5), dtype=np.int32)
        for seen, taps in _per_filter(x, weight, stride, padding, groups, zero)
    ]
    return np.stack(sums, axis=-1)


def conv2d(
    x: U8, weight: NDArray[np.int8], stride: Pair, padding: Pair, groups: int, *, zero: int
) -> NDArray[np.int32]:
    """Accumulator of a convolution, `acc = sum q_x * q_w` over the taps; as `adder2d`."""
    sums = [
        (seen.astype(np.int32) * taps).sum(axis=(3, 4, 5), dtype=np.int32)
        for seen, taps in _per_filter(x, weight, stride, padding, groups, zero)
    ]
    return np.stack(sums, axis=-1)


def max_pool(x: U8, node: MaxPool) -> U8:
    """Largest of each window, smallest in the channels of `node.minimum`."""
    rows, columns = node.padding
    border = ((0, 0), (rows, rows), (columns, columns), (0, 0))
    # min(x) = 255 - max(255 - x), and 255 - x = x ^ 255.
    turned = np.where(node.minimum == 1, 255, 0).astype(np.uint8)
    largest = np.pad(x ^ turned, border)
    for axis, size, stride in zip((1, 2), node.kernel, node.stride, strict=True):
        # The largest of 2 n rows is the larger of two largest of n.
        reach = 1
        while reach < size:
            step = min(reach, size - reach)
            largest = np.maximum(_cut(largest, axis, 0, -step), _cut(largest, axis, step, None))
            reach += step
        largest = _cut(largest, axis, 0, None, stride)
    made: U8 = largest ^ turned
    return made


def sums(x: U8, kernel: Pair, stride: Pair) -> NDArray[np.int64]:
    """Sum of each window, `[N, h, w, C]`, whatever its size as differences of running sums."""
    total = x.astype(np.int64)
    for axis, size, step in zip((1, 2), kernel, stride, strict=True):
        border = [(1, 0) if index == axis else (0, 0) for index in range(4)]
        running = np.pad(total.cumsum(axis), border)
        total = _cut(running, axis, size, None, step) - _cut(running, axis, 0, -size, step)
    return total


def _cut(x: NDArray[Any], axis: int, begin: int, end: int | None, step: int = 1) -> NDArray[Any]:
    """`x[begin:end:step]` along an axis."""
    return x[(*(slice(None),) * axis, slice(begin, end, step))]


def requantise(v: NDArray[np.int64], shift: int, low: int, high: int) -> U8:
    """`clamp((v + (1 << (shift - 1))) >> shift, low, high)`; the shift rounds down."""
    made: U8 = np.clip((v + (1 << (shift - 1))) >> shift, low, high).astype(np.uint8)
    return made


def linear(x: U8, node: Linear) -> NDArray[np.float32]:
    """Logits `[N, O]`: the exact sum, then a product and a sum in float32."""
    # Sums below 2**31 are exact in float64, whose matrix product is the fast one.
    flat = x.reshape(len(x), node.weight.shape[1]).astype(np.float64)
    sums = flat @ node.weight.T.astype(np.float64)
    with np.errstate(over="ignore"):
        logits: NDArray[np.float32] = sums.astype(np.float32) * node.scale + node.bias
    return logits


def _windows(x: U8, kernel: Pair, stride: Pair) -> U8:
    """A view of all windows, `[N, h, w, Kh, Kw, C]`."""
    view: U8 = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
    return view[:, :: stride[0], :: stride[1]].transpose(0, 1, 2, 4, 5, 3)


def _per_filter(
    x: U8, weight: NDArray[Any], stride: Pair, padding: Pair, groups: int, zero: int
) -> list[tuple[U8, NDArray[np.int32]]]:
    """For each filter the windows that it reads `[N, h, w, Kh, Kw, C / g]`, and its taps."""
    rows, columns = padding
    border = ((0, 0), (rows, rows), (columns, columns), (0, 0))
    seen = _windows(np.pad(x, border, constant_values=zero), weight.shape[1:3], stride)
    parts = np.split(seen, groups, axis=-1)
    filters = len(weight) // groups
    return [(parts[o // filters], taps.astype(np.int32)) for o, taps in enumerate(weight)]
