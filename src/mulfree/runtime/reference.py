"""Execution of a graph in numpy, slow and plain: the definition of every bit.

Native kernels and ONNX files equal it exactly. The arithmetic of a node is the facet `reference` of
its folder in `mulfree.nodes`; a value is an array `u8[N, H, W, C]`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import DTypeError, ShapeError
from mulfree.nodes import Node, Value, facet
from mulfree.nodes.arithmetic import U8, Made
from mulfree.nodes.node import Values
from mulfree.runtime.exits import Exits, confidence
from mulfree.runtime.graph import Graph


def run(graph: Graph, array: NDArray[Any]) -> NDArray[np.float32]:
    """Return the logits of the last output, computed in exact integer arithmetic.

    Args:
        graph: The network.
        array: `[N, C, H, W]` or `[C, H, W]`: uint8 pixels, or float32 normalised as in `Input`.

    Returns:
        `[N, O]`.

    Raises:
        ShapeError: The array is not of the graph's input shape.
        DTypeError: It is neither uint8 nor float32.
    """
    return run_all(graph, array)[graph.nodes[-1].output]


def run_all(graph: Graph, array: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """Return the logits of all outputs by name; see `run`."""
    return {name: output for name, ends, output in _steps(graph, array) if ends}


def run_exits(
    graph: Graph, array: NDArray[Any], exits: Exits
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the logits of the exit at which each image leaves, and its number.

    Images that stay are gathered to a smaller batch, which goes on from the values at hand.

    Args:
        graph: A network whose outputs have one size.
        array: As in `run`.
        exits: When an image leaves.

    Returns:
        `[N, O]` and `[N]`.
    """
    made = {graph.input.value: quantised_input(graph, array)}
    count = len(made[graph.input.value])
    logits, taken = np.empty((count, graph.outputs), np.float32), np.empty(count, np.int64)
    rows, limits = np.arange(count), (*exits.thresholds, -np.inf)
    number = 0
    for node in graph.nodes:
        output = evaluate(node, graph.by_name, made)
        if not node.ends:
            made[node.output] = output
            continue
        leaves = confidence(output, exits.confidence) >= limits[number]
        leaves |= number == len(exits.thresholds)
        logits[rows[leaves]], taken[rows[leaves]] = output[leaves], number
        made = {name: value[~leaves] for name, value in made.items()}
        rows, number = rows[~leaves], number + 1
        if not len(rows):
            break
    return logits, taken


def trace(graph: Graph, array: NDArray[Any]) -> dict[str, U8]:
    """Return all values of a run, `u8[N, H, W, C]` by name; see `run`."""
    return {name: output for name, ends, output in _steps(graph, array) if not ends}


def seconds(graph: Graph, array: NDArray[Any]) -> list[float]:
    """Return the times of the input and of each node, in the order of the graph."""
    times = [time.perf_counter(), *(time.perf_counter() for _ in _steps(graph, array))]
    return [after - before for before, after in itertools.pairwise(times)]


def _steps(graph: Graph, array: NDArray[Any]) -> Iterator[tuple[str, bool, NDArray[Any]]]:
    """Yield name, `ends` and content of the first value and of the output of each node."""
    made = {graph.input.value: quantised_input(graph, array)}
    yield graph.input.value, False, made[graph.input.value]
    for node in graph.nodes:
        output = evaluate(node, graph.by_name, made)
        if not node.ends:
            made[node.output] = output
        yield node.output, node.ends, output


def evaluate(node: Node, values: Values, made: Made) -> NDArray[Any]:
    """Return the output of one node.

    Args:
        node: The node.
        values: Descriptions of the values by name.
        made: The values made so far.
    """
    definition = facet(node.op, "reference")
    assert definition is not None, f"{node.op} has no reference"
    output: NDArray[Any] = definition.evaluate(node, values, made)
    return output


def checked_input(graph: Graph, array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as `[N, C, H, W]`.

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
    """Return an array, or the view that numpy has of it, such as of a CPU tensor of torch."""
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
    """Return the first value: pixels through the table, or quantised float32."""
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
    """Return `clamp(round(x / scale) + zero, 0, 255)` in float32, half to even; NaN gives 0.

    Args:
        array: Real numbers.
        value: Description of the result: scale and zero point.
        steps: Scratch memory of the array's shape; new by default.
        out: Memory for the result, likewise.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.divide(array, np.float32(value.scale), out=steps)
        np.rint(steps, out=steps)
        steps += np.float32(value.zero_point)
    # fmax, unlike maximum, ignores NaN.
    np.fmax(steps, np.float32(0), out=steps)
    np.fmin(steps, np.float32(255), out=steps)
    if out is None:
        out = np.empty(array.shape, np.uint8)
    np.copyto(out, steps, casting="unsafe")
    return out
