"""Networks as stem, stages of blocks and classifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.models.staged import StagedNetwork

SIZES = {"resnet20": 32, "resnet50": 32, "vgg_small": 32, "mobilenet_v2": 32}


def staged(name: str, **options: Any) -> StagedNetwork:
    torch.manual_seed(0)
    network = models.create_model(name, width=0.125, **options).eval()
    assert isinstance(network, StagedNetwork)
    return network


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_the_parts_make_the_whole(name: str, size: int) -> None:
    network = staged(name)
    images = torch.randn(2, 3, size, size)
    x = network.run_stem(images)
    for names in network.stage_blocks():
        x = network.run_blocks(names, x)
    assert torch.equal(network.classify(x), network(images))


@pytest.mark.parametrize(
    ("name", "depths"),
    [("resnet56", [9, 9, 9]), ("resnet101", [3, 4, 23, 3]), ("vgg_small", [2, 2, 2])],
)
def test_the_number_of_blocks_of_a_stage(name: str, depths: list[int]) -> None:
    network = staged(name, **({} if name == "vgg_small" else {"channel_divisor": 1}))
    assert [len(stage) for stage in network.stage_blocks()] == depths
    assert network.running() == network.stage_blocks()


@pytest.mark.parametrize(
    ("name", "kept", "blocks"),
    [
        ("resnet32", [[0, 2], [0], [0, 3, 4]], [2, 1, 3]),
        ("vgg_small", [[0], [0, 1], [0]], [1, 2, 1]),
        ("resnet50", [[0, 1], [0], [0, 5], [0]], [2, 1, 2, 1]),
    ],
)
def test_a_network_that_leaves_blocks_out_is_the_shallower_one(
    name: str, kept: list[list[int]], blocks: list[int]
) -> None:
    deep = staged(name)
    shallow = models.create_model(name, width=0.125, blocks=blocks).eval()
    assert isinstance(shallow, StagedNetwork)
    deep.keep_blocks(kept)
    stages = zip(shallow.stage_blocks(), deep.running(), strict=True)
    renamed = dict(pair for names in stages for pair in zip(*names, strict=True))
    state = deep.state_dict()
    found = {}
    for key in shallow.state_dict():
        block = next((new for new in renamed if key.startswith(f"{new}.")), "")
        found[key] = state[renamed.get(block, block) + key.removeprefix(block)]
    shallow.load_state_dict(found)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(deep(images), shallow(images))
    deep.keep_blocks(None)
    assert deep.running() == deep.stage_blocks()
    assert not torch.equal(deep(images), shallow(images))


@pytest.mark.parametrize(
    "blocks",
    [[[0], [0]], [[0], [0], []], [[0], [0], [1]], [[0], [0], [0, 3]], [[0, 2, 1], [0], [0]]],
)
def test_blocks_that_cannot_be_kept(blocks: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match="keep_blocks: `blocks` must be rising numbers from 0"):
        staged("resnet20").keep_blocks(blocks)


@pytest.mark.parametrize(
    "blocks", [[], [1, 2], [1, 2, 0], [1, 2, True], [1, 2, "3"], [1, 2, 10**6]]
)
@pytest.mark.parametrize("name", ["resnet20", "vgg_small"])
def test_an_option_that_is_no_number_of_blocks(name: str, blocks: list[Any]) -> None:
    with pytest.raises(ConfigError, match="`blocks` must be 3 numbers from 1 to 1000, got"):
        models.create_model(name, blocks=blocks)


def test_an_option_that_is_no_list() -> None:
    with pytest.raises(ConfigError, match="`blocks` must be of type list"):
        models.create_model("resnet20", blocks="333")
