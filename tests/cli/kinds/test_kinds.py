"""Kinds of networks in commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mulfree import models
from mulfree.cli import kinds
from mulfree.cli.kinds import KINDS, find_kind, get_kind
from mulfree.cli.kinds.kind import share_correct
from mulfree.data import BatchLoader
from mulfree.data.samples import ImageSet

SMALL: dict[str, dict[str, Any]] = {
    "depth_dynamic": {"network": "resnet20", "subnets": {"short": {"blocks": [1, 1, 1]}}},
    "dynamic_resolution": {"resolutions": [8, 4]},
    "early_exit": {},
    "resnet20": {},
}


def test_every_module_is_listed() -> None:
    files = {path.stem for path in Path(kinds.__file__).parent.glob("*.py")}
    assert files - {"__init__", "kind"} == set(KINDS)
    assert KINDS[-1] == "plain"


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_of_the_kind_of_its_name(name: str) -> None:
    model = models.create_model(name, width=0.125, **SMALL[name])
    kind = find_kind(model)
    assert kind is get_kind(name if name in KINDS else "plain")
    assert isinstance(model, kind.network)


def test_any_module_is_plain() -> None:
    plain = find_kind(nn.Linear(2, 2))
    assert plain is get_kind("plain")
    assert plain.parts(nn.Linear(2, 2), None) == {}
    assert (plain.has_plot, plain.has_exits, plain.has_whole) == (False, False, True)


def test_share_of_correct_images_over_batches() -> None:
    images = ImageSet(torch.arange(5).reshape(5, 1, 1, 1).byte(), torch.tensor([0, 1, 0, 1, 1]))
    loader = BatchLoader(images, 2, train=False)
    seen = []

    def run(batch: Any) -> Any:
        seen.append(len(batch))
        # Class 1 for every image.
        return torch.tensor([[0.0, 1.0]]).expand(len(batch), 2).numpy()

    assert share_correct(run, loader, "x") == 3 / 5
    assert seen == [2, 2, 1]
