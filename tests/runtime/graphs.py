"""Graphs for tests: one made by hand, and random ones of the samples of all nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes import NODES, Node, Value
from mulfree.nodes.adder2d import Adder2d
from mulfree.nodes.linear import Linear
from mulfree.nodes.lut import Lut
from mulfree.nodes.mean import Mean
from mulfree.nodes.sampling import Draws, Sample, has_operands
from mulfree.runtime import artifact
from mulfree.runtime.graph import Graph, Input

Shape = tuple[int, int, int]


def array(values: Any, dtype: str) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=dtype)


def tiny_parts() -> dict[str, Any]:
    """Arguments of `Graph` for two adder filters 2x2 on 3x3 pixels, their mean, two classes."""
    return {
        "name": "tiny",
        "input": Input(
            value="x",
            table=array(np.arange(256)[None], "uint8"),
            mean=(0.5,),
            std=(0.25,),
            resize=3,
        ),
        "values": (
            Value(name="x", shape=(1, 3, 3), scale=0.5, zero_point=2),
            Value(name="y", shape=(2, 2, 2), scale=0.25, zero_point=0),
            Value(name="z", shape=(2, 1, 1), scale=0.25, zero_point=0),
        ),
        "nodes": (
            Adder2d(
                name="adder",
                input="x",
                output="y",
                weight=array([[[[1], [1]], [[1], [1]]], [[[0], [2]], [[4], [6]]]], "uint8"),
                multiplier=array([1, -3], "int32"),
                offset=array([100, 0], "int64"),
                shift=1,
                clamp_min=0,
                clamp_max=255,
            ),
            Mean(
                name="mean",
                input="y",
                output="z",
                kernel=(2, 2),
                stride=(1, 1),
                multiplier=1,
                offset=0,
                shift=2,
                clamp_min=0,
                clamp_max=255,
            ),
            Linear(
                name="fc",
                input="z",
                weight=array([[1, 2], [-1, 0]], "int8"),
                scale=array([0.5, 2.0], "float32"),
                bias=array([1.0, -1.0], "float32"),
            ),
        ),
        "classes": ("cat", "dog"),
    }


def tiny() -> Graph:
    return Graph(**tiny_parts())


def two_outputs() -> Graph:
    """The tiny graph with an output `early` of the first layer, too."""
    parts = tiny_parts()
    early = classifier(parts["values"][1], np.arange(24, dtype=np.int8).reshape(3, 8))
    adder, *rest = parts["nodes"]
    parts["nodes"] = (adder, replace(early, name="early", output="early"), *rest)
    return Graph(**parts)


def lined_up(value: Value, *nodes: Node, values: tuple[Value, ...] = ()) -> Graph:
    """Nodes in a row, from `value` on, and logits that are the integers of the last value."""
    last = values[-1] if values else value
    graph = graph_of(
        np.random.default_rng(0),
        (value, *values),
        (*nodes, classifier(last, np.eye(last.elements, dtype=np.int8))),
    )
    graph.input.table[:] = np.arange(256)
    return graph


def heavy(side: int, channels: int) -> Graph:
    """An adder layer of `9 * side**2 * channels**2` taps and the mean of what it makes."""
    rng = np.random.default_rng(side)
    shape = (channels, side, side)
    x = Value(name="x", shape=shape, scale=0.5, zero_point=7)
    y = replace(x, name="y")
    z = replace(x, name="z", shape=(channels, 1, 1))
    taps = 9 * channels
    adder, mean, _ = tiny_parts()["nodes"]
    adder = replace(
        adder,
        weight=rng.integers(0, 256, (channels, 3, 3, channels), dtype=np.uint8),
        multiplier=array([2**16 // taps] * channels, "int32"),
        offset=array([130 * 2**16] * channels, "int64"),
        shift=16,
        padding=(1, 1),
    )
    mean = replace(mean, kernel=(side, side), multiplier=2**20 // side**2, shift=20)
    return lined_up(x, adder, mean, values=(y, z))


# Layers are the most frequent.
_OPS = (
    *(op for op in NODES if op != "linear" and not has_operands(op)),
    "adder2d",
    "adder2d",
    "conv2d",
)
_MAX_ELEMENTS = 20_000


def random_graph(rng: np.random.Generator, nodes: int | None = None) -> Graph:
    """A valid graph of 1 to 5 random nodes and a classifier."""
    draws = Draws(rng)
    count = draws.number(1, 5) if nodes is None else nodes
    values = [draws.value(draws.shape())]
    made: list[Node] = []
    while len(made) < count:
        node, output = draws.node(draws.chosen(_OPS), values)
        assert output is not None
        if output.elements <= _MAX_ELEMENTS:
            values.append(output)
            made.append(node)
    made.append(draws.node("linear", values)[0])
    return graph_of(rng, values, made)


def random_outputs(rng: np.random.Generator, outputs: int, classes: int) -> Graph:
    """A valid graph of random nodes with several classifiers, whose logits are small."""
    draws = Draws(rng)
    values = [draws.value(draws.shape())]
    made: list[Node] = []
    for number in range(outputs):
        for _ in range(draws.number(1, 2)):
            node, output = draws.node(draws.chosen(("adder2d", "conv2d", "lut")), values[-1:])
            assert output is not None
            values.append(output)
            made.append(node)
        taps = values[-1].elements
        end = classifier(values[-1], rng.integers(-128, 128, (classes, taps), dtype=np.int8))
        scale = np.full(classes, 4e-4 / taps**0.5, np.float32)
        made.append(replace(end, name=f"fc{number}", output=f"exit{number}", scale=scale))
    return graph_of(rng, values, made)


def around(sample: Sample, rng: np.random.Generator) -> Graph:
    """The node of a sample between pixels and logits, which are its integers if they are few."""
    values = list(sample.values)
    made: list[Node] = []
    if len(values) == 2:
        names: Any = {"name": "other", "input": values[0].name, "output": values[1].name}
        if values[0].shape == values[1].shape:
            table = rng.integers(0, 256, (values[0].shape[0], 256), dtype=np.uint8)
            made.append(Lut(**names, table=table))
        else:  # One number a channel.
            clamp = {"clamp_min": 0, "clamp_max": 255}
            fixed: Any = {"multiplier": 1, "offset": 0, "shift": 4, "stride": (1, 1), **clamp}
            made.append(Mean(**names, kernel=values[0].shape[1:], **fixed))
    made.append(sample.node)
    if sample.output is not None:
        values.append(sample.output)
        taps = sample.output.elements
        weight = np.eye(taps, dtype=np.int8)
        if taps > 500:
            weight = rng.integers(-128, 128, (5, taps), dtype=np.int8)
        made.append(classifier(sample.output, weight))
    return graph_of(rng, values, made)


def classifier(value: Value, weight: NDArray[np.int8]) -> Linear:
    """Logits that are the sums alone."""
    ones = np.ones(len(weight), np.float32)
    return Linear(name="fc", input=value.name, weight=weight, scale=ones, bias=0 * ones)


def graph_of(rng: np.random.Generator, values: Sequence[Value], nodes: Sequence[Node]) -> Graph:
    """A graph of the nodes, with a random table for pixels."""
    channels, *sides = values[0].shape
    return Graph(
        name="random",
        input=Input(
            value=values[0].name,
            table=rng.integers(0, 256, (channels, 256), dtype=np.uint8),
            mean=tuple(rng.uniform(0, 1, channels).tolist()),
            std=tuple(rng.uniform(0.1, 1, channels).tolist()),
            resize=max(sides),
        ),
        values=tuple(values),
        nodes=tuple(nodes),
    )


def pictures(rng: np.random.Generator, graph: Graph, images: int) -> NDArray[Any]:
    """Pixels, at times all 0 or all 255, or normalised numbers, at times far out."""
    shape = (images, *graph.input_value.shape)
    kind = rng.integers(0, 8)
    if kind < 2:
        return np.full(shape, 255 * kind, np.uint8)
    if kind < 5:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    spread = 128 * graph.input_value.scale
    return (spread * rng.normal(size=shape)).astype(np.float32)


def network() -> Graph:
    """A stem, a pooling, two residual blocks, one of them with a stride, a mean and 10 classes."""
    return artifact.load(Path(__file__).parents[1] / "golden" / "data" / "network.mulfree")
