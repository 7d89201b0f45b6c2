from __future__ import annotations

import copy
import json
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.models import ImageSpec

VALUES: dict[str, Any] = {
    "size": (1, 8, 6),
    "mean": (0.5,),
    "std": (0.25,),
    "resize": 8,
    "classes": ("cat", "dog"),
    "data": "digits",
}


def test_the_way_through_json() -> None:
    spec = ImageSpec(**VALUES)
    assert ImageSpec.from_dict(json.loads(json.dumps(asdict(spec)))) == spec
    assert ImageSpec.from_dict(asdict(spec)) == spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": [1, 8, 8]}, "`size` must be a tuple"),
        ({"size": (1, 8)}, "`size` must be three whole numbers"),
        ({"size": (1, 8, True)}, r"`size` must be three whole numbers .* got \(1, 8, True\)"),
        ({"size": (1, 8, 0)}, "`size` must be three whole numbers"),
        ({"size": (1, 8, 10**9)}, "`size` must be three whole numbers from 1 to 65536"),
        ({"size": (1, 65_536, 65_536)}, "`size` must be of at most 67108864 values"),
        ({"resize": 7}, "`resize` must be a whole number from 8 to 65536, got 7"),
        ({"resize": 8.0}, "`resize` must be a whole number"),
        ({"mean": (0.5, 0.5)}, "`mean` must be 1 finite numbers, one per channel"),
        ({"mean": (float("nan"),)}, "`mean` must be 1 finite numbers"),
        ({"mean": (10**400,)}, "`mean` must be 1 finite numbers"),
        ({"std": ("x",)}, "`std` must be 1 finite numbers"),
        ({"std": (0.0,)}, "`std` must be above 0"),
        ({"classes": (1, 2)}, "`classes` must be names"),
        ({"data": None}, "`data` must be a name, got None"),
    ],
)
def test_values_that_are_not_valid(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^ImageSpec: {message}"):
        ImageSpec(**{**VALUES, **values})


@pytest.mark.parametrize("content", [5, {}, {**VALUES, "more": 1}])
def test_other_content(content: Any) -> None:
    with pytest.raises(ConfigError, match="`content` must have the keys classes, data, mean"):
        ImageSpec.from_dict(content)


def test_copies_and_files_keep_them_in_the_model_config() -> None:
    model = models.create_model("lenet5_bn", in_channels=1, num_classes=2)
    assert models.input_size(model) == (1, 28, 28)
    config = models.config_of(model)
    spec = ImageSpec(**VALUES)
    models.set_images(torch.compile(model), spec)  # type: ignore[arg-type]
    assert models.config_of(copy.deepcopy(model)).images == spec
    assert models.input_size(nn.DataParallel(model)) == (1, 8, 6)
    # It is the same network.
    assert models.config_of(model) == config


def test_images_that_the_model_does_not_take() -> None:
    spec = ImageSpec(**VALUES)
    with pytest.raises(
        ConfigError, match="`images` must have in_channels 3 as the model has it, g"
    ):
        models.set_images(models.create_model("lenet5_bn", num_classes=2), spec)
    with pytest.raises(ConfigError, match=r"num_classes 10 as the model has it, got 2"):
        models.set_images(models.create_model("lenet5_bn", in_channels=1), spec)
