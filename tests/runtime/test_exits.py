"""Thresholds of graphs, confidence by hand, and their place in files."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.runtime.graphs import tiny, two_outputs

from mulfree.errors import ArtifactError
from mulfree.runtime import Exits, Graph, artifact
from mulfree.runtime.container import pack, unpack
from mulfree.runtime.exits import confidence


def exiting(**fields: Any) -> Graph:
    """Two outputs of two classes each."""
    graph = two_outputs()
    early: Any
    adder, early, *rest = graph.nodes
    small = replace(early, weight=early.weight[:2], scale=early.scale[:2], bias=early.bias[:2])
    graph = replace(graph, nodes=(adder, small, *rest))
    return replace(graph, exits=Exits(**{"thresholds": (0.75,), **fields}))


def test_confidence_by_hand() -> None:
    logits = np.array([[0.0, math.log(3.0)], [5.0, 5.0], [2000.0, 0.0]], np.float32)
    np.testing.assert_allclose(confidence(logits, "probability"), [0.75, 0.5, 1.0], rtol=1e-7)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    expected = [1 - entropy, 0.0, 1.0]
    np.testing.assert_allclose(confidence(logits, "entropy"), expected, atol=1e-7)
    for kind in ("probability", "entropy"):
        assert confidence(np.zeros((1, 1), np.float32), kind).tolist() == [1.0]
        for number in (np.inf, -np.inf, np.nan):
            assert np.isnan(confidence(np.array([[number, 0]], np.float32), kind)).all()
        assert confidence(np.zeros((0, 3), np.float32), kind).shape == (0,)


def test_operations_up_to_each_output() -> None:
    graph = two_outputs()
    adder, early, mean, last = graph.counts()
    assert dict(graph.counts_to_outputs()) == {
        "early": adder + early,
        "logits": adder + early + mean + last,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"thresholds": (0.5, 0.5)}, "`exits.thresholds` must be 1 numbers of at least 0"),
        ({"thresholds": ()}, "`exits.thresholds` must be 1 numbers of at least 0"),
        ({"thresholds": (-0.5,)}, "`exits.thresholds` must be 1 numbers of at least 0"),
        ({"thresholds": (math.nan,)}, "`exits.thresholds` must be a tuple of finite floats"),
        ({"thresholds": (1,)}, "`exits.thresholds` must be a tuple of finite floats"),
        ({"thresholds": [0.5]}, "`exits.thresholds` must be a tuple of finite floats"),
        ({"confidence": "margin"}, "`exits.confidence` must be one of probability, entropy"),
        ({"confidence": ["entropy"]}, "`exits.confidence` must be one of probability, entropy"),
    ],
)
def test_exits_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        exiting(**fields)


@pytest.mark.parametrize("graph", [tiny(), two_outputs()])
def test_graphs_that_cannot_have_exits(graph: Graph) -> None:
    line = "`exits` must be None without several outputs of one size"
    with pytest.raises(ArtifactError, match=line):
        replace(graph, exits=Exits(thresholds=(0.5,)))
    with pytest.raises(ArtifactError, match="`exits` must be Exits or None"):
        replace(graph, exits=(0.5,))  # type: ignore[arg-type]


def test_files_hold_the_exits() -> None:
    graph = exiting(thresholds=(0.1 + 0.2,), confidence="entropy")
    content = artifact.to_bytes(graph)
    read = artifact.from_bytes(content)
    assert read.exits == Exits(thresholds=(0.1 + 0.2,), confidence="entropy")
    assert artifact.to_bytes(read) == content
    assert artifact.from_bytes(artifact.to_bytes(two_outputs())).exits is None
    description, _ = unpack(np.frombuffer(content, np.uint8))
    assert description["version"] == 2
    assert "exits" in description["entries"]["main"]


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        (None, "have an object as exits"),
        ([0.5], "have an object as exits"),
        ({"thresholds": [0.5]}, "have 'confidence' in exits"),
        ({"thresholds": [0.5], "confidence": "entropy", "x": 1}, "not have 'x' in exits"),
        ({"thresholds": "0.5", "confidence": "entropy"}, "must be a tuple of finite floats"),
        ({"thresholds": [0.5, 0.5], "confidence": "entropy"}, "must be 1 numbers of at least 0"),
        ({"thresholds": [[0.5]], "confidence": "entropy"}, "must be a tuple of finite floats"),
        ({"thresholds": [0.5], "confidence": {}}, "must be one of probability, entropy"),
    ],
)
def test_hostile_exits(exits: object, message: str) -> None:
    content = np.frombuffer(artifact.to_bytes(exiting()), np.uint8)
    description, tensors = unpack(content)
    description["entries"]["main"]["exits"] = exits
    with pytest.raises(ArtifactError, match=message):
        artifact.from_bytes(pack(description, tensors))


def test_version_1_has_no_exits() -> None:
    description, tensors = unpack(np.frombuffer(artifact.to_bytes(tiny()), np.uint8))
    description["exits"] = {"thresholds": [0.5], "confidence": "entropy"}
    with pytest.raises(ArtifactError, match="not have 'exits' in the graph"):
        artifact.from_bytes(pack(description, tensors))
