from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mulfree.data import DataConfig
from mulfree.errors import ConfigError


def test_defaults_are_valid_and_frozen() -> None:
    config = DataConfig()
    assert (config.name, config.batch_size, config.augment) == ("digits", 128, "default")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "cifar10"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a positive integer, got 0"),
        ({"batch_size": -3}, "`batch_size` must be a positive integer, got -3"),
        ({"batch_size": None}, "`batch_size` must be a positive integer, got None"),
        ({"eval_batch_size": 1.5}, "`eval_batch_size` must be a positive integer, got 1.5"),
        ({"image_size": 0}, "`image_size` must be a positive integer, got 0"),
        ({"classes": True}, "`classes` must be a positive integer, got True"),
        ({"limit": "many"}, "`limit` must be a positive integer, got 'many'"),
        ({"validation": 1.0}, "`validation` must be at least 0 and below 1, got 1.0"),
        ({"validation": -0.1}, "`validation` must be at least 0 and below 1, got -0.1"),
        ({"validation": float("nan")}, "`validation` must be at least 0 and below 1, got nan"),
        ({"fraction": 0.0}, "`fraction` must be above 0 and at most 1, got 0.0"),
        ({"fraction": 1.5}, "`fraction` must be above 0 and at most 1, got 1.5"),
        ({"per_class": 0}, "`per_class` must be a positive integer, got 0"),
        ({"per_class": 5, "fraction": 0.5}, "`fraction` must be 1 with per_class, got 0.5"),
        ({"repeat": 0}, "`repeat` must be a positive integer, got 0"),
        ({"repeat": None}, "`repeat` must be a positive integer, got None"),
        ({"subset_seed": -1}, "`subset_seed` must be an integer from 0 to 2147483647, got -1"),
        ({"mean": (0.5,)}, "`std` must be given with mean, got None"),
        ({"std": (0.5,)}, "`mean` must be given with std, got None"),
        (
            {"mean": (float("nan"),), "std": (1.0,)},
            r"`mean` must be finite, got \(nan,\)",
        ),
        ({"augment": "defualt"}, "`augment` must be one of .*did you mean 'default'"),
    ],
)
def test_rejects(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^DataConfig: {message}"):
        DataConfig(**options)
