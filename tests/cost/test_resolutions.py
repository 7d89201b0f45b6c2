"""Costs of a network of dynamic resolution, against those of its parts."""

from __future__ import annotations

import pytest

from mulfree import cost, models
from mulfree.models.dynamic_resolution import DynamicResolutionNetwork


@pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
def test_costs_are_those_of_the_networks_inside(operator: str) -> None:
    model = models.create_model("dynamic_resolution", operator=operator)
    assert isinstance(model, DynamicResolutionNetwork)
    profiles = cost.count_resolutions(model)
    assert list(profiles) == ["predictor", "32", "24", "16"]
    plain = models.create_model("resnet20", operator=operator)
    for side in (32, 24, 16):
        expected = cost.count(plain, (3, side, side)).total
        assert profiles[str(side)].total == expected
        assert profiles[str(side)].input_size == (3, side, side)
    totals = [profiles[str(side)].total.cost.total for side in (32, 24, 16)]
    assert cost.resolution_costs(model).tolist() == totals
    # 40.8 M taps of two operations.
    assert totals[0] == pytest.approx(81.6e6, rel=0.01)
    assert profiles["predictor"].total.cost.total < 0.05 * totals[0]
