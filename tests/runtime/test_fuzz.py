from __future__ import annotations

from pathlib import Path

import pytest
from tests.runtime.fuzz import BASES, fuzz

from mulfree.nodes import NODES
from mulfree.runtime import artifact

pytestmark = pytest.mark.fuzz


def test_damaged_artifacts_are_refused_or_run(tmp_path: Path) -> None:
    outcomes = fuzz(2000, 1, tmp_path)
    assert outcomes["refused"] + outcomes["accepted"] == 2000
    assert outcomes["refused"] > 1000
    assert outcomes["run"] > 100


def test_every_kind_of_node_is_damaged() -> None:
    graphs = [g for content in BASES for g in artifact.entries_from_bytes(content).values()]
    assert {node.op for graph in graphs for node in graph.nodes} == set(NODES)
