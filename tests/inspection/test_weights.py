from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mulfree import inspection, models
from mulfree.errors import ConfigError
from mulfree.inspection import fit

LOG_2PI = 1.8378770664093453


def test_a_fit_by_hand() -> None:
    # Deviations from the mean 3: -3 -2 -1 0 6, squares 9 4 1 0 36; from the median 2: 2 1 0 1 7.
    found = fit(np.array([0, 1, 2, 3, 9]))
    assert (found.count, found.mean, found.median) == (5, 3.0, 2.0)
    assert found.std == pytest.approx(math.sqrt(10))
    assert found.deviation == pytest.approx(11 / 5)
    assert found.gaussian == pytest.approx(-0.5 * (LOG_2PI + math.log(10)) - 0.5)
    assert found.laplace == pytest.approx(-math.log(22 / 5) - 1)
    assert found.kurtosis == pytest.approx((81 + 16 + 1 + 1296) / 5 / 100 - 3)
    assert found.difference == found.laplace - found.gaussian
    assert found.better == "laplace"


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_the_log_likelihood_is_the_mean_logarithm_of_the_density(law: inspection.Law) -> None:
    values = np.array([-1.5, 0.25, 0.5, 2.0])
    found = fit(values)
    assert np.log(found.density(law, values)).mean() == pytest.approx(getattr(found, law))
    x = np.linspace(-60, 60, 200_001)
    assert found.density(law, x).sum() * (x[1] - x[0]) == pytest.approx(1, abs=1e-6)


def test_two_values_are_better_explained_by_the_gaussian() -> None:
    # Both scales are 1; log(1) + log(pi / 2) / 2 - 1 / 2 is what the laws differ by.
    found = fit(np.array([-1.0, 1.0]))
    assert (found.std, found.deviation, found.kurtosis) == (1, 1, -2)
    assert found.difference == pytest.approx(math.log(math.pi / 2) / 2 - 0.5)
    assert found.better == "gaussian"


@pytest.mark.parametrize(
    ("law", "difference", "kurtosis"),
    [
        # std / deviation is sqrt(pi / 2) of the Gaussian and sqrt(2) of Laplace.
        ("gaussian", math.log(math.pi / 2) - 0.5, 0),
        ("laplace", math.log(math.pi) / 2 - 0.5, 3),
    ],
)
def test_samples_are_named_after_their_law(law: str, difference: float, kurtosis: float) -> None:
    rng = np.random.default_rng(0)
    draw = rng.normal if law == "gaussian" else rng.laplace
    found = fit(draw(3.0, 0.02, 200_000))
    assert found.better == law
    assert found.difference == pytest.approx(difference, abs=0.005)
    # Of that many numbers a Laplace sample's is off by 0.1 as a rule.
    assert found.kurtosis == pytest.approx(kurtosis, abs=0.3)


def test_shift_and_scale_do_not_change_the_difference() -> None:
    values = np.random.default_rng(1).normal(size=(8, 3, 5, 5)).astype(np.float32)
    one, other = fit(values), fit(values * np.float32(1024) + 0.0)
    assert other.difference == pytest.approx(one.difference, abs=1e-12)
    assert other.gaussian == pytest.approx(one.gaussian - math.log(1024))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "fit: `values` must be finite numbers, got none"),
        ([1.0, math.nan], "fit: `values` must be finite numbers, got 2 from nan to nan"),
        ([1.0, math.inf], "fit: `values` must be finite numbers, got 2 from 1 to inf"),
        ([0.1] * 3, "fit: `values` must not all be equal, got 3 from 0.1 to 0.1"),
        ([0.0, 1e-300], "fit: `values` must not all be equal, got 2 from 0 to 1e-300"),
    ],
)
def test_what_has_no_density(values: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        fit(np.array(values))


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"operator": "conv2d"}, ["conv2", "conv3", "conv4"]),
        ({"operator": "adder2d"}, ["conv2", "conv3", "conv4"]),
        # First and last are left out even where they are adder layers.
        ({"operator": "adder2d", "keep": ()}, ["conv2", "conv3", "conv4"]),
        (
            {"operator": "adder2d", "keep": ["conv3"], "embedding": 2},
            ["conv2", "conv4", "embedding.0"],
        ),
    ],
)
def test_inner_layers_of_the_operator(options: dict[str, Any], layers: list[str]) -> None:
    model = models.create_model("lenet5_bn", in_channels=1, **options)
    found = inspection.inspect_weights(model, options["operator"])
    assert list(found.layers) == layers
    assert found.layers["conv2"].fit.count == 16 * 6 * 25
    counts = {"conv2": 16 * 6 * 25, "conv3": 120 * 16 * 25, "conv4": 84 * 120, "embedding.0": 168}
    assert found.pooled.fit.count == sum(counts[name] for name in layers)


def test_layers_are_standardised_before_they_are_pooled() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1), nn.Linear(1, 4), nn.Linear(4, 1))
    with torch.no_grad():
        model.get_parameter("1.weight").copy_(torch.tensor([[1.0, 5.0]]))
        model.get_parameter("2.weight").copy_(torch.tensor([[-100.0], [-90], [-110], [-100]]))
    found = inspection.inspect_weights(model, "conv2d")
    assert list(found.layers) == ["1", "2"]
    root = math.sqrt(2)
    assert found.pooled.values == pytest.approx([-1, 1, 0, root, -root, 0])
    assert found.pooled.fit.std == pytest.approx(1)
    assert found.pooled.fit.deviation == pytest.approx((2 + 2 * root) / 6)


def test_no_such_layer() -> None:
    model = models.create_model("lenet5_bn", operator="adder2d", keep=["*"], width=0.5)
    message = "`model` must have a layer of adder2d between .* got a LeNet5BN without"
    with pytest.raises(ConfigError, match=message):
        inspection.inspect_weights(model, "adder2d")
    with pytest.raises(ConfigError, match="`name` must be one of adder2d, conv2d, got 'adder'"):
        inspection.inspect_weights(model, "adder")


def test_a_layer_of_equal_weights_is_named() -> None:
    model = models.create_model("lenet5_bn", operator="adder2d", width=0.5)
    nn.init.constant_(model.get_parameter("conv3.weight"), 0.5)
    message = "`conv3.weight` must not all be equal, got 12000 from 0.5 to 0.5"
    with pytest.raises(ConfigError, match=message):
        inspection.inspect_weights(model, "adder2d")
