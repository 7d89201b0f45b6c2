"""Fits against every phi of a fine sweep, with a cost that is quick to compute."""

from __future__ import annotations

import math

import pytest

from mulfree import models, scaling
from mulfree.errors import ConfigError
from mulfree.models import ScaledModel
from mulfree.scaling import costs, plan

ZERO = scaling.Costs(params=1, mul_add=1, additions=1, energy=1.0)


def steps(scaled: ScaledModel, dtype: str) -> float:
    """Cost of three blocks a stage: whole blocks, whole channels, whole pixels."""
    if scaled.depth > 64 or scaled.width > 64:
        raise ConfigError("too large")
    return math.ceil(3 * scaled.depth) * round(16 * scaled.width) ** 2 * scaled.image_size**2


BASE = 3 * 16**2 * 32**2


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MEASURES", {**costs.MEASURES, "additions": steps})
    monkeypatch.setattr(plan, "costs_of", lambda scaled, dtype: ZERO)


@pytest.mark.parametrize("multiple", [1.0, 2.0, 4.1, 37.0])
def test_the_largest_phi_within_the_target(multiple: float) -> None:
    found = scaling.fit("resnet20", "additions", multiple * BASE)
    assert found.measured == steps(found.scaled, "fp32") <= multiple * BASE
    # Bisection ends at a 64th.
    beyond = models.scale("resnet20", found.phi + 1 / 64)
    assert steps(beyond, "fp32") > multiple * BASE
    assert found.scaled == models.scale("resnet20", found.phi)
    assert (found.scaling, found.costs) == ("compound", ZERO)


def test_nearest_may_be_above() -> None:
    # Sides of 44 and 46 have 1.89 and 2.07 times the pixels of 32.
    ratios = (1.0, 1.0, 1.2)
    below = scaling.fit("resnet20", "additions", 2.05 * BASE, ratios)
    above = scaling.fit("resnet20", "additions", 2.05 * BASE, ratios, nearest=True)
    assert (below.scaled.image_size, above.scaled.image_size) == (44, 46)
    near = scaling.fit("resnet20", "additions", 1.9 * BASE, ratios, nearest=True)
    assert near.scaled.image_size == 44


def test_equal_cost_in_each_dimension_alone() -> None:
    plans = scaling.equal_cost("resnet20", "additions", 4 * BASE, channel_divisor=1)
    assert list(plans) == ["compound", "depth", "width", "resolution"]
    shapes = {
        name: (found.scaled.depth > 1, found.scaled.width > 1, found.scaled.image_size > 32)
        for name, found in plans.items()
    }
    assert shapes == {
        "compound": (True, True, True),
        "depth": (True, False, False),
        "width": (False, True, False),
        "resolution": (False, False, True),
    }
    for found in plans.values():
        assert found.measured == pytest.approx(4 * BASE, rel=0.15)
    assert plans["resolution"].scaled.image_size == 64


def test_options_reach_the_network() -> None:
    found = scaling.fit("resnet20", "additions", BASE, operator="adder2d", base_size=16)
    assert found.scaled.options["operator"] == "adder2d"
    assert 16 < found.scaled.image_size < 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet20", "flops", 1e9), "`measure` must be one of additions, energy, latency, mul-"),
        (("resnet20", "additions", 0), "`target` must be a positive number, got 0"),
        (("resnet20", "additions", math.nan), "`target` must be a positive number, got nan"),
        (("resnet20", "additions", "1"), "`target` must be a positive number, got '1'"),
        (
            ("resnet20", "additions", BASE / 2),
            r"`target` must be at least the additions 7.864e\+05 of resnet20 itself, got 3.932e",
        ),
        (("lenet5_bn", "additions", 1e9), "`name` must be a network with the options depth"),
    ],
)
def test_refuses(arguments: tuple[str, str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scaling.fit(*arguments)


def test_refuses_a_target_above_every_network() -> None:
    with pytest.raises(ConfigError, match=r"`target` must be at most the additions .* at phi 20"):
        scaling.fit("resnet20", "additions", 1e30)
    with pytest.raises(ConfigError, match="`dtype` must be one of"):
        scaling.fit("resnet20", "additions", 1e9, dtype="fp7")


def test_the_bound_of_the_depth_is_the_end_of_depth_scaling() -> None:
    found = scaling.fit("resnet20", "additions", 1e30, (2.0, 1.0, 1.0))
    assert found.scaled.depth == 64
