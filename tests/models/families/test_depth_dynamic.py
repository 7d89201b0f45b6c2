"""Options of depth-dynamic networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mulfree import models
from mulfree.errors import ConfigError


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_are_those_of_the_full_network_but_for_batch_norms() -> None:
    with torch.device("meta"):
        shared = models.create_model("ddnn_resnet20_32_56", batch_norm="shared")
        full = models.create_model("resnet56")
        large = models.create_model("ddnn_resnet50_101", batch_norm="shared", num_classes=1000)
    assert count(shared) == count(full)
    assert count(large) == 44_549_160


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("resnet34", {"subnets": ["resnet50"]}, "must (have the layers|nest|have different)"),
        ("resnet50", {"subnets": ["resnet18"]}, r"must have the layers .*'resnet18' with another"),
        (
            "resnet20",
            {"subnets": ["resnet32"]},
            r"nest, .* got 'resnet32' of \[5, 5, 5\]",
        ),
        ("resnet20", {"subnets": {"a": {"blocks": [3, 3, 3]}}}, "must have different depths"),
        (
            "resnet20",
            {"subnets": {"a": {"blocks": [1, 3, 3]}, "b": {"blocks": [2, 1, 2]}}},
            r"must nest, with no more blocks .* got 'b' of \[2, 1, 2\] and 'a' of \[1, 3, 3\]",
        ),
        ("resnet20", {"subnets": {"a": {"blocks": [0, 1, 1]}}}, "`blocks` must be 3 numbers"),
        ("resnet20", {"subnets": {"a": {"blocks": []}}}, "`blocks` must be 3 numbers"),
        ("resnet20", {"subnets": []}, "`subnets` must be 1 to 16 sub-nets, got 0"),
        ("resnet20", {"subnets": ["resnet18"]}, "must be of the family of resnet20, got resnet18"),
        ("resnet20", {"subnets": ["resnet20"]}, "must have other names than the network resnet20"),
        (
            "resnet56",
            {"subnets": {"resnet20": {"blocks": [1, 1, 1]}}},
            "must have no options for a registered network",
        ),
        ("resnet56", {"subnets": {"a": {"width": 2}}}, "must have the options blocks or depth"),
        ("resnet56", {"subnets": ["nothing"]}, "must have the options blocks or depth"),
        ("resnet56", {"subnets": {"a.b": {"depth": 0.5}}}, "must have names without dots"),
        ("no_such", {"subnets": {"a": {"blocks": [1]}}}, "`name` must be one of"),
        ("resnet56", {"kept_blocks": "last"}, "`kept_blocks` must be one of first, spread"),
        ("resnet56", {"batch_norm": "none"}, "`batch_norm` must be one of private, shared, stage"),
        ("resnet56", {"network_options": {"blocks": "a"}}, "`blocks` must be of type"),
    ],
)
def test_errors(name: str, options: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        models.depth_dynamic(name, **{"subnets": ["resnet20"], **options})


def test_errors_of_the_registered_model() -> None:
    with pytest.raises(ConfigError, match="`subnets` must be given, got None"):
        models.create_model("depth_dynamic", subnets=None)
    with pytest.raises(ConfigError, match=r"must hold a table of options .* got 3 for 'resnet20'"):
        models.create_model("depth_dynamic", subnets={"resnet20": 3})
