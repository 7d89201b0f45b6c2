"""Kept blocks of sub-nets, and the steps that their routes share."""

from __future__ import annotations

import pytest

from mulfree.models.subnets import Subnet, kept_blocks, routes, under_block


def test_kept_blocks() -> None:
    assert kept_blocks([2, 1], [4, 3], "first") == [[0, 1], [0]]
    assert kept_blocks([3, 1, 4], [9, 3, 6], "spread") == [[0, 4, 8], [0], [0, 2, 3, 5]]
    assert kept_blocks([5], [5], "spread") == [[0, 1, 2, 3, 4]]


def test_equal_routes_share_steps() -> None:
    subnets = [
        Subnet(name=name, model="x", options={}, kept=kept)
        for name, kept in (("a", ((0,), (0,))), ("b", ((0, 1), (0, 1))))
    ]
    stages = [["s0", "s1"], ["t0", "t1"]]
    found = routes(stages, subnets, "private", last_differs=False)
    assert [step.branch for step in found["b"]] == ["a", "b", "b", "b"]
    assert found["a"][0].key == found["b"][0].key
    assert found["a"][1].key != found["b"][2].key
    assert [step.ends_stage for step in found["a"]] == [True, True]
    assert [step.ends_stage for step in found["b"]] == [False, True, False, True]
    # The last block of a stage pools.
    pooled = routes(stages, subnets, "private", last_differs=True)
    assert pooled["a"][0].key != pooled["b"][0].key
    assert pooled["b"][0].branch == "b"
    staged = routes(stages, subnets, "stage", last_differs=False)
    assert [step.branch for step in staged["b"]] == ["b", "b", "b", "b"]
    shared = routes(stages, subnets, "shared", last_differs=False)
    assert [step.branch for step in shared["b"]] == ["a", "b", "a", "b"]
    assert [step.branch for step in shared["a"]] == ["a", "a"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("layer1.1.conv1.weight", ("layer1.4.conv1.weight", "layer1.1")),
        ("layer1.1", ("layer1.4", "layer1.1")),
        ("layer1.10.conv1", ("layer1.10.conv1", None)),
        ("fc", ("fc", None)),
    ],
)
def test_under_block(path: str, expected: tuple[str, str | None]) -> None:
    assert under_block(path, {"layer1.1": "layer1.4"}) == expected
