"""Grids and directions against the constraint of the paper."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mulfree.errors import ConfigError
from mulfree.models import ScaledModel, scale
from mulfree.scaling import costs_of, ratios
from mulfree.scaling.ratios import Constraint, Growth, Ratios, direction, grid

OPTIONS: dict[str, Any] = {
    "depth": 1 / 3,
    "width": 0.25,
    "channel_divisor": 1,
    "base_size": 16,
    "operator": "adder2d",
}


def test_the_grid_is_every_combination_that_meets_the_constraint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Distinct:
        def __init__(self, scaled: ScaledModel) -> None:
            self.params, self.mul_add = scaled.depth, scaled.width

    monkeypatch.setattr(ratios, "costs_of", Distinct)
    found = grid(Growth(Constraint(tolerance=0.1), "resnet20", {"base_size": 320}), 0.1)
    tenths = [1 + index / 10 for index in range(12)]
    wanted = {
        (round(a, 6), round(b, 6), round(c, 6))
        for a, b, c in itertools.product(tenths, tenths, tenths)
        if abs(a * b**2 * c**2 - 2) <= 0.1
    }
    assert {tuple(each) for each in found} == wanted
    assert (1.2, 1.1, 1.2) in wanted
    distances = [abs(each.product - 2) for each in found]
    assert distances == sorted(distances)


def test_ratios_of_one_network_are_tried_once() -> None:
    found = grid(Growth(Constraint(), "resnet20", OPTIONS), 0.4)
    networks = [
        (scaled.image_size, costs_of(scaled).mul_add, costs_of(scaled).params)
        for scaled in (scale("resnet20", 1, *each, **OPTIONS) for each in found)
    ]
    assert len(set(networks)) == len(networks) >= 2


def test_measured_growth() -> None:
    constraint = Constraint(kind="additions", tolerance=0.3)
    additions = [costs_of(scale("resnet20", phi, 1, 1, 1.5, **OPTIONS)).additions for phi in (0, 1)]
    growth = Growth(constraint, "resnet20", OPTIONS)
    assert growth(Ratios(1, 1, 1.5)) == additions[1] / additions[0]
    found = grid(growth, 0.5)
    assert found
    for each in found:
        assert constraint.holds(growth(each))


@pytest.mark.parametrize(("depth", "width"), [(0, 0), (1, 0.3), (0.3, 0.7), (0, 1), (0.5, 0)])
def test_directions_have_product_two(depth: float, width: float) -> None:
    found = direction(depth, width)
    assert found.product == pytest.approx(2)
    assert min(found) >= 1


def test_normalised_to_another_growth() -> None:
    product = Growth(Constraint(growth=3.0), "resnet20", OPTIONS)
    found = product.normalised(direction(0.3, 0.7))
    assert found.product == pytest.approx(3)
    constraint = Constraint(kind="energy", growth=2.0, tolerance=0.4)
    growth = Growth(constraint, "resnet20", OPTIONS)
    measured = growth.normalised(direction(0, 0))
    assert constraint.holds(growth(measured))
    assert measured[:2] == (1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "flops"}, "`constraint` must be one of additions, energy, mul-add, product, got"),
        ({"growth": 1.0}, "`growth` must be above 1 and at most 16, got 1.0"),
        ({"tolerance": 0.0}, "`tolerance` must be above 0 and at most 1, got 0.0"),
        ({"tolerance": float("nan")}, "`tolerance` must be .*, got nan"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Constraint(**settings)


def test_steps_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"`step` must be from 0.01 to 1, got 0.001"):
        grid(Growth(Constraint(), "resnet20", OPTIONS), 0.001)
    with pytest.raises(ConfigError, match=r"`step` must leave ratios with a growth of 2 \+- 0.01"):
        grid(Growth(Constraint(tolerance=0.01), "resnet20", OPTIONS), 0.7)
