"""Costs against operations counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mulfree import models, scaling
from mulfree.models import ScaledModel
from mulfree.scaling.costs import MEASURES


def tiny(**options: Any) -> ScaledModel:
    """One block a stage, 4, 8 and 16 channels, images of 8x8."""
    return models.scale(
        "resnet20", 0, depth=1 / 3, width=0.25, channel_divisor=1, base_size=8, **options
    )


# 8x8 in the first stage, 4x4 in the second, 2x2 in the third; shortcuts of 1x1.
STEM, CLASSIFIER = 27 * 4 * 64, 16 * 10
STAGES = (
    2 * 9 * 4 * 4 * 64
    + (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8) * 16
    + (9 * 8 * 16 + 9 * 16 * 16 + 8 * 16) * 4
)


def test_convolutions() -> None:
    costs = scaling.costs_of(tiny(operator="conv2d"))
    taps = STEM + STAGES + CLASSIFIER
    assert (costs.mul_add, costs.additions) == (taps, taps)
    assert costs.energy == pytest.approx(taps * (3.7 + 0.9))
    network = tiny().create()
    assert costs.params == sum(parameter.numel() for parameter in network.parameters())


def test_adders() -> None:
    costs = scaling.costs_of(tiny(operator="adder2d"), "int8")
    edges = STEM + CLASSIFIER
    # The FLOPs of the paper stay those of the convolutions.
    assert costs.mul_add == edges + STAGES
    assert costs.additions == edges + 2 * STAGES
    assert costs.energy == pytest.approx(edges * 0.2 + costs.additions * 0.03)


def test_measures_are_the_costs() -> None:
    scaled = tiny(operator="adder2d")
    costs = scaling.costs_of(scaled)
    for measure, name in (("mul-add", "mul_add"), ("additions", "additions"), ("energy", "energy")):
        assert MEASURES[measure](scaled, "fp32") == getattr(costs, name)


def test_latency_is_a_time_and_leaves_random_states_alone() -> None:
    before = torch.random.get_rng_state()
    assert 0 < MEASURES["latency"](tiny(), "fp32") < 60
    assert torch.equal(torch.random.get_rng_state(), before)
