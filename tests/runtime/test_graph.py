from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from tests.runtime.graphs import array, classifier, graph_of, tiny, tiny_parts

from mulfree.errors import ArtifactError
from mulfree.nodes import NODES, Node, Value, get_node
from mulfree.nodes.concat import Concat
from mulfree.nodes.fields import field_checks
from mulfree.nodes.max_pool import MaxPool
from mulfree.nodes.mean import Mean
from mulfree.nodes.node import Shape
from mulfree.nodes.pad import Pad
from mulfree.opcounts import OpCounts
from mulfree.runtime import Session, reference
from mulfree.runtime import graph as graph_module
from mulfree.runtime.graph import MAX_ELEMENTS, MAX_NODES, MAX_WORK, Graph, Input


def changed(**changes: Mapping[str, Any]) -> Graph:
    """The tiny graph with fields of its parts replaced: `adder={"shift": 3}`."""
    graph = tiny()

    def edited(part: Any, name: str) -> Any:
        return replace(part, **changes.get(name, {}))

    return replace(
        graph,
        input=edited(graph.input, "input"),
        values=tuple(edited(value, value.name) for value in graph.values),
        nodes=tuple(edited(node, node.name) for node in graph.nodes),
    )


def one_node(shape: Shape, made: Shape, **fields: Any) -> Graph:
    """Input, one node that maps `shape` to `made`, and a classifier."""
    node = get_node(fields.pop("op"))(name="node", input="x", output="y", **fields)
    x = Value(name="x", shape=shape, scale=0.5, zero_point=7)
    y = replace(x, name="y", shape=made)
    last = classifier(y, np.ones((2, y.elements), np.int8))
    return graph_of(np.random.default_rng(0), (x, y), (node, last))


def test_a_graph_knows_its_ends() -> None:
    graph = tiny()
    assert graph.outputs == 2
    assert graph.input_value.name == "x"
    assert graph.by_name["y"].elements == 8
    assert [node.inputs for node in graph.nodes] == [("x",), ("y",), ("z",)]
    assert [node.output for node in graph.nodes] == ["y", "z", "logits"]


def test_every_field_has_a_rule() -> None:
    for kind in (Graph, Input, Value, *map(get_node, NODES)):
        without = {item.name for item in fields(kind)} - set(field_checks(kind))
        checked_apart = {"input", "values", "nodes", "exits"}
        assert without == (set() if kind is not Graph else checked_apart)


SMALL = array([5], "int32")


def filters(*shape: int) -> dict[str, Any]:
    return {"adder": {"weight": np.zeros(shape, np.uint8)}}


NUMBERS = {
    "multiplier": array([1, 1], "int32"),
    "offset": array([0, 0], "int64"),
    "shift": 1,
    "clamp_min": 0,
    "clamp_max": 255,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": {"name": ""}}, r"`values\[0\].name` must be a printable text of 1..200 .*got ''"),
        ({"x": {"shape": [1, 3, 3]}}, r"`values\[0\].shape` must be a tuple of 3 ints in 1..32768"),
        ({"x": {"shape": (1, 3, 2**14), "scale": 1}}, r"`values\[0\].scale` must be a float in"),
        ({"x": {"zero_point": 256}}, r"`values\[0\].zero_point` must be an int in 0..255, got 256"),
        ({"y": {"name": "x"}}, r"`values` must have names of their own, got 'x'"),
        ({"y": {"name": "w"}}, r"`values` must be made by a node, got 'w'"),
        ({"y": {"shape": (2, 2, 1)}}, r"`y.shape` must be \(2, 2, 2\) as adder makes"),
        ({"input": {"value": "q"}}, r"`adder.input` must be made by an earlier node, got 'x'"),
        ({"input": {"table": array([[1]], "uint8")}}, r"`input.table` must be \[1, 256\], got uin"),
        ({"input": {"table": array([[1]], "int8")}}, r"`input.table` must be a contiguous, aligne"),
        ({"input": {"mean": (0.5, 0.5)}}, r"`input.mean` must have 1 elements, got \(0.5, 0.5\)"),
        ({"input": {"mean": 0.5}}, r"`input.mean` must be a tuple of finite floats, got 0.5"),
        ({"input": {"std": (0.0,)}}, r"`input.std` must be positive, got \(0.0,\)"),
        ({"input": {"resize": 2}}, r"`input.resize` must be at least the input's side 3, got 2"),
        ({"adder": {"name": "fc"}}, r"`nodes` must have names of their own, got 'fc'"),
        ({"adder": {"input": "z"}}, r"`adder.input` must be made by an earlier node, got 'z'"),
        ({"adder": {"output": "x"}}, r"`adder.output` must be made only once, got 'x'"),
        ({"mean": {"output": "w"}, "fc": {"input": "w"}}, r"must be a declared value, got 'w'"),
        ({"mean": {"input": "x"}}, r"`values` must be read by a node, got 'y'"),
        (
            {"adder": {"clamp_min": 9, "clamp_max": 8}},
            r"`adder.clamp_max` must be at least clamp_min \(9\), got 8",
        ),
        ({"adder": {"padding": (0, 2)}}, r"`adder.padding` must be below the kernel's \[2, 2\]"),
        (
            {"adder": {"padding_excess": (0, 2)}},
            r"`adder.padding_excess` must leave paddings from 0 to below the kernel's \[2, 2\]",
        ),
        (
            {"adder": {"padding_excess": (-1, 0)}},
            r"`adder.padding_excess` must leave paddings from",
        ),
        ({"adder": {"groups": 2}}, r"`adder.groups` must divide the 1 channels and 2 filters"),
        (
            {"adder": {"multiplier": SMALL}},
            r"`adder.multiplier` must have 2 elements, got int32\[1",
        ),
        ({"adder": {"offset": array([5], "int64")}}, r"`adder.offset` must have 2 elements"),
        ({"adder": {"offset": array([0, -(2**63)], "int64")}}, r"must keep the sum below 2\*\*62"),
        ({"adder": {"shift": 62, "offset": array([0, 2**61], "int64")}}, r"sum below 2\*\*62"),
        ({"adder": {"residual": "q"}}, r"`adder.input` must be made by an earlier node, got 'q'"),
        ({"adder": {"residual": "x"}}, r"`adder.residual` must have the output's shape \[2, 2, 2"),
        (
            {"adder": {"residual_multiplier": 1}},
            r"residual_multiplier` must be 0 without a residual",
        ),
        (
            filters(2, 2, 2, 2),
            r"`adder.weight` must have 1 channels \(last axis\) in each of 1 groups",
        ),
        (filters(2, 0, 2, 1), r"`adder.weight` must not be emp"),
        (
            filters(2, 4, 2, 1),
            r"`adder.input` must be as large as the window \[4, 2\], got \[3, 3\]",
        ),
        (filters(2, 1, 2**15 + 1, 1), r"`adder.weight` must have sides <= 32768"),
        (
            {"mean": {"kernel": (3, 2)}},
            r"`mean.input` must be as large as the window \[3, 2\], got",
        ),
        (
            {"mean": {"clamp_min": 9, "clamp_max": 8}},
            r"`mean.clamp_max` must be at least clamp_min",
        ),
        ({"mean": {"offset": 2**62}}, r"`mean.multiplier` must keep the sum below 2\*\*62, got"),
        ({"mean": {"kernel": (2**15, 2**15)}}, r"`mean.kernel` must have fewer than 2\*\*31 / 255"),
        ({"fc": {"weight": np.zeros((2, 3), np.int8)}}, r"weight` must have shape \[1..32768, 2\]"),
        ({"fc": {"scale": np.ones(1, np.float32)}}, r"`fc.scale` must have 2 elements"),
        ({"fc": {"bias": np.ones(1, np.float32)}}, r"`fc.bias` must have 2 elements"),
    ],
)
def test_a_field_that_does_not_fit(changes: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match="^Graph: .*" + message):
        changed(**changes)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"name": 3}, r"`graph.name` must be a printable text of 1..200 characters, got 3"),
        ({"classes": ("cat",)}, r"`classes` must have 2 names, got 1"),
        ({"classes": ("cat", "")}, r"`graph.classes` must be a tuple of texts"),
        ({"input": None}, r"`input` must be an Input, got None"),
        ({"values": ()}, r"`values` must be 1 to 4096, got 0"),
        ({"values": [1]}, r"`values` must be a tuple of values, got \[1\]"),
        ({"nodes": (3,)}, r"`nodes` must be a tuple of nodes, got \(3,\)"),
        ({"nodes": tiny_parts()["nodes"][:2]}, r"`nodes` must end with an output, got 'mean'"),
        (
            {"nodes": tiny_parts()["nodes"][2:] * MAX_NODES * 2},
            r"`nodes` must be 1 to 4096, got 81",
        ),
    ],
)
def test_a_graph_that_does_not_hold_together(parts: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match="^Graph: " + message):
        Graph(**(tiny_parts() | parts))


POOL = {"op": "max_pool", "kernel": (2, 2), "stride": (1, 1), "padding": (0, 0)}
ADD = {"op": "add", "multiplier": 1, "other_multiplier": 1, "offset": 0, "shift": 1, "clamp_min": 0}
NO_BORDER = {"left": 0, "right": 0, "top": 0, "bottom": 0}
DEEP = 70000 // 256


def pool(minimum: list[int], **changes: Any) -> dict[str, Any]:
    return {**POOL, "minimum": array(minimum, "uint8"), **changes}


def add(**changes: Any) -> dict[str, Any]:
    return {**ADD, "other": "x", "clamp_max": 255, **changes}


def concat(order: list[int], other: str = "x") -> dict[str, Any]:
    return {"op": "concat", "others": (other,), "order": array(order, "int32")}


def lut(channels: int) -> dict[str, Any]:
    return {"op": "lut", "table": np.zeros((channels, 256), np.uint8)}


@pytest.mark.parametrize(
    ("shape", "made", "node", "message"),
    [
        ((1, 4, 4), (1, 3, 3), pool([2]), r"`node.minimum` must hav"),
        ((2, 4, 4), (2, 3, 3), pool([1]), r"`node.minimum` must hav"),
        (
            (1, 4, 4),
            (1, 3, 3),
            pool([0], kernel=(3, 3), padding=(2, 0)),
            r"`node.padding` must be at most half of the kernel \[3, 3\], got \(2, 0\)",
        ),
        ((1, 4, 4), (1, 4, 4), add(clamp_min=9, clamp_max=8), r"`node.clamp_max` must be at"),
        ((1, 4, 4), (1, 4, 4), add(offset=2**62), r"`node.multiplier` must keep the sum below 2"),
        ((2, 4, 4), (2, 4, 4), lut(1), r"`node.table` must be \[2, 256\]"),
        ((1, 258, 256), (1, 258, 256), lut(1), r"`fc.weight` must have fewer than 2\*\*31 / 32640"),
        (
            (1, 4, 4),
            (1, 8, 9),
            {"op": "repeat", "factor": 2},
            r"`y.shape` must be \(1, 8, 8\) as n",
        ),
        ((2, 3, 3), (4, 3, 3), concat([0, 1, 2]), r"`node.order` must be a permutation of 0..3"),
        (
            (2, 3, 3),
            (4, 3, 3),
            concat([0, 1, 2, 2]),
            r"`node.order` must be a p.* got int32\[4\]",
        ),
        ((2, 3, 3), (4, 3, 3), concat([-1, 1, 2, 3]), r"`node.order` must be a permutation"),
        ((2, 3, 3), (3, 3, 3), concat([3, 1, 2, 0]), r"`y.shape` must be \(4, 3"),
        ((2, 3, 3), (4, 3, 3), concat([0, 1, 2, 3], "z"), r"`node.input` must be made by an earli"),
        (
            (DEEP, 16, 16),
            (2, 1, 1),
            {"op": "conv2d", "weight": np.zeros((2, 16, 16, DEEP), np.int8), **NUMBERS},
            r"`node.weight` must have so few taps that 32640 times their number is below 2\*\*31",
        ),
    ],
)
def test_a_node_that_does_not_fit(shape: Any, made: Any, node: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match="^Graph: .*" + message):
        one_node(shape, made, **node)


def test_the_operands_of_a_sum_have_one_shape() -> None:
    parts = tiny_parts()
    adder, mean, fc = parts["nodes"]
    fields = add(other="y")
    total = get_node(fields.pop("op"))(name="sum", input="z", output="w", **fields)
    parts["values"] += (replace(parts["values"][2], name="w"),)
    parts["nodes"] = (adder, mean, total, replace(fc, input="w"))
    with pytest.raises(ArtifactError, match=r"`sum.other` must have the shape \[2, 1, 1\], got"):
        Graph(**parts)


def test_stacked_values_are_alike() -> None:
    """In rows, columns, scale and zero point of all of them."""

    def stacked(**changes: Any) -> Graph:
        parts = tiny_parts()
        adder, mean, fc = parts["nodes"]
        x, y, z = parts["values"]
        made = replace(z, name="w", shape=(6, 1, 1))
        other = replace(z, name="u", **changes)
        rows, columns = other.shape[1:]
        again = replace(mean, name="again", output="u", kernel=(3 - rows, 3 - columns))
        order = array([5, 4, 3, 2, 1, 0], "int32")
        concat = Concat(name="all", input="z", others=("z", "u"), output="w", order=order)
        weight = array(np.zeros((2, 6)), "int8")
        parts["values"] = (x, y, z, other, made)
        parts["nodes"] = (adder, mean, again, concat, replace(fc, input="w", weight=weight))
        return Graph(**parts)

    assert stacked().nodes[3].inputs == ("z", "z", "u")
    line = r"`all.others` must have rows and columns \[1, 1\], go"
    with pytest.raises(ArtifactError, match=line):
        stacked(shape=(2, 2, 1))
    for other in ({"scale": 0.5}, {"zero_point": 8}):
        line = r"`w` must have scale and zero point of u, got \(0.25, 0"
        with pytest.raises(ArtifactError, match=line):
            stacked(**other)


@pytest.mark.parametrize("other", [{"scale": 0.25}, {"zero_point": 8}])
def test_copied_integers_keep_their_meaning(other: Any) -> None:
    graph = one_node((1, 4, 4), (1, 8, 8), op="repeat", factor=2)
    x, y = graph.values
    with pytest.raises(ArtifactError, match=r"`y` must have scale and zero point of x, got \("):
        replace(graph, values=(x, replace(y, **other)))


def test_largest_sums_that_are_allowed() -> None:
    """255 * 4 taps * 3 + offset + 2**61 reaches 2**62 with the last offset."""
    room = 2**62 - 2**61 - 255 * 4 * 3
    changed(adder={"shift": 62, "offset": array([0, room - 1], "int64")})
    changed(adder={"shift": 62, "offset": array([0, 1 - room], "int64")})
    with pytest.raises(ArtifactError, match=rf"must keep the sum below 2\*\*62, got {2**62}"):
        changed(adder={"shift": 62, "offset": array([0, room], "int64")})


def test_a_node_alone_is_incomplete() -> None:
    with pytest.raises(TypeError, match="missing 4 required"):
        Pad(name="pad", input="x", output="y")  # type: ignore[call-arg]
    node = Node(name="n", input="x", output="y")
    with pytest.raises(NotImplementedError):
        node.output_shape({})


def test_counts_by_hand() -> None:
    adder, mean, linear = tiny().counts()
    # 8 outputs of 4 taps: a difference and an accumulation each, an offset each; -3 multiplies.
    assert adder == OpCounts(mul=4, add=8 * 4 * 2 + 8)
    # 2 outputs of 4 taps; the factor 1 does not multiply.
    assert mean == OpCounts(mul=0, add=2 * 4 + 2)
    assert linear == OpCounts(mul=2 * 2 + 2, add=2 * 2 + 2)
    assert adder + linear == OpCounts(mul=10, add=78)
    graph = tiny()
    assert [node.operations(graph.by_name) for node in graph.nodes] == [
        {"int8": OpCounts(add=32), "int32": OpCounts(mul=4, add=32 + 8)},
        {"int32": mean},
        {"int8": OpCounts(mul=4), "int32": OpCounts(add=4), "fp32": OpCounts(mul=2, add=2)},
    ]


def test_counts_of_the_other_nodes() -> None:
    weight = np.zeros((2, 3, 3, 1), np.int8)
    residual = {"residual": "x", "residual_multiplier": 5, "padding": (1, 1), "groups": 2}
    conv = one_node((2, 4, 4), (2, 4, 4), op="conv2d", weight=weight, **NUMBERS, **residual)
    taps = 2 * 16 * 9
    assert conv.counts()[0] == OpCounts(mul=taps + 2 * 16, add=taps + 2 * 2 * 16)
    assert conv.nodes[0].operations(conv.by_name)["int8"] == OpCounts(mul=taps)
    add = one_node((1, 4, 4), (1, 4, 4), **ADD | {"other_multiplier": 6}, other="x", clamp_max=255)
    assert add.counts()[0] == OpCounts(mul=16, add=32)
    lut = one_node((1, 4, 4), (1, 4, 4), op="lut", table=np.zeros((1, 256), np.uint8))
    assert lut.counts()[0] == OpCounts(lookup=16)
    for fields_ in (
        {"op": "pad", **NO_BORDER},
        {"op": "repeat", "factor": 1},
        {**POOL, "kernel": (1, 1), "minimum": array([0], "uint8")},
        {"op": "concat", "others": (), "order": array([0], "int32")},
    ):
        assert one_node((1, 4, 4), (1, 4, 4), **fields_).counts()[0] == OpCounts()


def test_powers_of_two_are_shifts() -> None:
    for factor, mul in ((0, 0), (-1, 0), (1024, 0), (-(2**31), 0), (3, 8), (-12, 8)):
        graph = changed(adder={"multiplier": array([factor, factor], "int32")})
        assert graph.counts()[0].mul == mul


def test_borders_of_all_readers_count_together() -> None:
    """One reader requires many rows around the value, another many columns."""
    side = 2**14
    parts = tiny_parts()
    _, y, z = parts["values"]
    adder, _, fc = parts["nodes"]
    tall = np.zeros((2, 2 * side, 1, 1), np.uint8)
    fields = {"weight": tall, "padding": (side, 0)}
    turned = {"weight": tall.transpose(0, 2, 1, 3).copy(), "padding": (0, side)}
    flat = array([[0, 0, 0, 0]] * 2, "int8")
    parts["values"] = (
        Value(name="x", shape=(1, 1, 1), scale=1.0, zero_point=0),
        replace(y, shape=(2, 2, 1)),
        replace(z, shape=(2, 1, 2)),
    )
    parts["nodes"] = (
        replace(adder, **fields),
        replace(adder, **turned, name="turned", output="z"),
        replace(fc, input="y", output="early", name="early", weight=flat),
        replace(fc, weight=flat),
    )
    with pytest.raises(ArtifactError, match=rf"`x.shape` must have at most {MAX_ELEMENTS} elemen"):
        Graph(**parts)


def test_pooling_needs_no_border() -> None:
    """Neither near the limit of a value's size, nor with padding far beyond it."""
    none = array([0], "uint8")
    side = 2**13
    small = POOL | {"minimum": none, "kernel": (3, 3), "padding": (1, 1), "stride": (32, 32)}
    full = one_node((1, side, side), (1, side // 32, side // 32), **small)
    assert full.values[0].elements == MAX_ELEMENTS
    huge = {"kernel": (2**15,) * 2, "padding": (2**14,) * 2, "minimum": none}
    graph = one_node((1, 4, 4), (1, 5, 5), **POOL | huge)
    pixels = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    graph.input.table[:] = np.arange(256)
    np.testing.assert_array_equal(reference.trace(graph, pixels)["y"], np.full((1, 5, 5, 1), 15))
    expected = reference.run(graph, pixels)
    np.testing.assert_array_equal(Session(graph, memory=1000).run(pixels), expected)


def test_work_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tiny()
    # Counted operations, then what is read and written.
    assert [node.work(graph.by_name) for node in graph.nodes] == [76 + 9 + 8, 10 + 8 + 2, 12 + 2]
    monkeypatch.setattr(graph_module, "MAX_WORK", 127)
    tiny()
    monkeypatch.setattr(graph_module, "MAX_WORK", 126)
    line = r"^Graph: `nodes` must take at most 126 operations .*, got 127$"
    with pytest.raises(ArtifactError, match=line):
        tiny()


def test_comparisons_count_by_the_size_of_the_map() -> None:
    pool: dict[str, Any] = {
        "name": "pool",
        "input": "x",
        "output": "y",
        "minimum": np.zeros(3, np.uint8),
    }
    values = {
        "x": Value(name="x", shape=(3, 64, 64), scale=1.0, zero_point=0),
        "y": Value(name="y", shape=(3, 65, 65), scale=1.0, zero_point=0),
    }
    small = MaxPool(**pool, kernel=(2, 2), stride=(1, 1), padding=(1, 1))
    large = MaxPool(**pool, kernel=(64, 64), stride=(1, 1), padding=(32, 32))
    moved = 3 * (64 * 64 + 65 * 65)
    assert small.work(values) == moved + 3 * 66 * 66 * 2
    assert large.work(values) == moved + 3 * 128 * 128 * 12


def test_means_of_large_overlapping_windows_are_too_much_work() -> None:
    x = Value(name="x", shape=(1, 4096, 4096), scale=1.0, zero_point=0)
    y = Value(name="y", shape=(1, 2049, 2049), scale=1.0, zero_point=0)
    mean = tiny().nodes[1]
    assert isinstance(mean, Mean)
    assert replace(mean, input="x", kernel=(2048, 2048)).work({"x": x, "z": y}) > MAX_WORK


def test_the_largest_networks_are_not_too_much_work() -> None:
    """ResNet-152 for 1024 x 1024 pixels: 11.5e9 taps at 224 x 224, two additions each."""
    assert MAX_WORK > 4 * 2 * 11.5e9 * (1024 / 224) ** 2
