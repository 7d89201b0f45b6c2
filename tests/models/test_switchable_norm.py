"""Batch norms with a branch for each use of a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mulfree.errors import ConfigError
from mulfree.models.switchable_norm import make_switchable, single_names, switch


def network(*branches: str) -> nn.Sequential:
    made = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    make_switchable(made, lambda name: branches if name == "1" else ())
    return made


def test_names_with_one_branch_alone() -> None:
    found = single_names(network("a", "b"))
    assert found["0.weight"] == "0.weight"
    assert found["1.branches.a.weight"] == found["1.branches.b.weight"] == "1.weight"
    assert found["1.branches.b.running_mean"] == "1.running_mean"
    alone = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    assert set(found.values()) == set(alone.state_dict())


def test_only_the_active_branch_counts_and_learns() -> None:
    made = network("a", "b")
    assert type(made[2]) is nn.BatchNorm2d
    a, b = (made.get_submodule(f"1.branches.{branch}") for branch in "ab")
    switch(made, "b")
    made(torch.randn(4, 1, 3, 3) + 5).sum().backward()
    assert [int(norm.get_buffer("num_batches_tracked")) for norm in (a, b)] == [0, 1]
    assert a.get_buffer("running_mean").tolist() == [0, 0]
    assert b.get_buffer("running_mean").abs().min() > 0
    assert a.get_parameter("bias").grad is None
    assert b.get_parameter("bias").grad is not None


def test_a_branch_starts_as_the_batch_norm_that_it_replaces() -> None:
    made = nn.Sequential(nn.BatchNorm2d(2))
    nn.init.constant_(made.get_parameter("0.weight"), 3.0)
    x = torch.randn(2, 2, 4, 4)
    expected = made(x)
    make_switchable(made, lambda _: ("a", "b"))
    for branch in "ab":
        switch(made, branch)
        assert torch.equal(made(x), expected)


def test_a_single_branch_needs_no_switch() -> None:
    assert type(network("a")[1]) is nn.BatchNorm2d


@pytest.mark.parametrize("branch", ["", "a.b", "keys"])
def test_names_that_no_module_may_have(branch: str) -> None:
    with pytest.raises(ConfigError, match="`branches` must have names without dots"):
        network("a", branch)


def test_an_unknown_branch() -> None:
    with pytest.raises(ConfigError, match="`branch` must be one of a, b, got 'c'"):
        switch(network("a", "b"), "c")
