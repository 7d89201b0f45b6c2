"""Merged graphs: nodes that are equal are computed once, and every output keeps its integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.runtime.graphs import random_graph, tiny, two_outputs

from mulfree.errors import ConfigError
from mulfree.runtime import Graph, Session, merge, reference

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 1, 3, 3), dtype=np.uint8)


def changed(**fields: Any) -> Graph:
    """The tiny graph with another mean layer."""
    adder, mean, fc = tiny().nodes
    return replace(tiny(), nodes=(adder, replace(mean, **fields), fc))


def test_equal_nodes_are_computed_once() -> None:
    whole = merge({"one": tiny(), "two": tiny()})
    assert [node.op for node in whole.nodes] == ["adder2d", "mean", "linear", "linear"]
    assert list(whole.output_sizes) == ["one", "two"]
    assert whole.classes == tiny().classes
    found = Session(whole).run_all(PIXELS)
    for logits in found.values():
        np.testing.assert_array_equal(logits, Session(tiny()).run(PIXELS))


def test_what_follows_the_first_difference_is_computed_for_each() -> None:
    other = changed(clamp_max=100)
    whole = merge({"one": tiny(), "two": other})
    assert [(node.op, node.name) for node in whole.nodes] == [
        ("adder2d", "adder"),
        ("mean", "mean"),
        ("linear", "fc"),
        ("mean", "mean.2"),
        ("linear", "fc.2"),
    ]
    found = reference.run_all(whole, PIXELS)
    np.testing.assert_array_equal(found["one"], reference.run(tiny(), PIXELS))
    np.testing.assert_array_equal(found["two"], reference.run(other, PIXELS))
    # Names of nodes and values have no meaning.
    x, y, z = tiny().values
    adder, mean, fc = tiny().nodes
    renamed = replace(
        tiny(),
        values=(x, replace(y, name="a"), z),
        nodes=(replace(adder, output="a"), replace(mean, name="m", input="a"), fc),
    )
    assert len(merge({"one": tiny(), "two": renamed}).nodes) == 4


def test_tensors_and_grids_are_compared() -> None:
    adder: Any
    adder, *rest = tiny().nodes
    weight = adder.weight.copy()
    weight[0, 0, 0, 0] += 1
    other = replace(tiny(), nodes=(replace(adder, weight=weight), *rest))
    assert len(merge({"one": tiny(), "two": other}).nodes) == 6
    x, y, z = tiny().values
    scaled = replace(tiny(), values=(x, y, replace(z, scale=2 * z.scale)))
    assert len(merge({"one": tiny(), "two": scaled}).nodes) == 5


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_keep_their_integers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    shorter = graph.nodes[-1]
    whole = merge({"one": graph, "two": replace(graph, nodes=(*graph.nodes[:-1], shorter))})
    array = rng.integers(0, 256, (2, *graph.input_value.shape), dtype=np.uint8)
    found = reference.run_all(whole, array)
    for logits in found.values():
        np.testing.assert_array_equal(logits, reference.run(graph, array))
    assert len(whole.nodes) == len(graph.nodes) + 1


def test_what_cannot_be_merged() -> None:
    with pytest.raises(ConfigError, match="`graphs` must hold a graph, got none"):
        merge({})
    with pytest.raises(ConfigError, match="must have one output each, got 'two' with 2"):
        merge({"one": tiny(), "two": two_outputs()})
    brighter = replace(tiny(), input=replace(tiny().input, mean=(0.25,)))
    with pytest.raises(ConfigError, match="must read the same input, got another one in 'two'"):
        merge({"one": tiny(), "two": brighter})
