"""Curves of early exit by hand, and the choice of a threshold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mulfree.errors import ConfigError, ShapeError
from mulfree.tasks.classification.early_exit import (
    NEVER,
    THRESHOLDS,
    candidates,
    choose,
    exit_curve,
)


def sure(label: int, probability: float) -> list[float]:
    """Two logits: the label has this probability."""
    odds = math.log(probability / (1 - probability))
    return [odds, 0.0] if label == 0 else [0.0, odds]


# First exit: sure and right, sure and wrong, unsure and wrong, unsure and right.
EARLY = np.array([sure(0, 0.95), sure(0, 0.9), sure(0, 0.6), sure(1, 0.7)], np.float32)
LATE = np.array([sure(0, 0.9), sure(1, 0.9), sure(1, 0.9), sure(0, 0.9)], np.float32)
LABELS = np.array([0, 1, 1, 1])
COSTS = (10.0, 30.0)


def test_a_curve_by_hand() -> None:
    curve = exit_curve([EARLY, LATE], LABELS, COSTS, [0, 0.65, 0.8, 0.92, NEVER])
    assert [point.accuracy for point in curve] == [0.5, 0.75, 0.5, 0.75, 0.75]
    assert [point.shares for point in curve] == [
        (1.0, 0.0),
        (0.75, 0.25),
        (0.5, 0.5),
        (0.25, 0.75),
        (0.0, 1.0),
    ]
    assert [point.cost for point in curve] == [10.0, 15.0, 20.0, 25.0, 30.0]
    assert choose(curve, lost=0) == curve[1]
    assert choose(curve, lost=25) == curve[0]
    assert choose(curve, cost=12) == curve[0]
    assert choose(curve, cost=22) == curve[1]
    assert choose(curve, cost=100) == curve[1]


def test_three_exits_and_entropy() -> None:
    middle = np.array([sure(0, 0.5), sure(1, 0.99), sure(0, 0.5), sure(1, 0.5)], np.float32)
    (point,) = exit_curve([EARLY, middle, LATE], LABELS, (1, 2, 4), [0.92])
    assert point.shares == (0.25, 0.25, 0.5)
    assert point.cost == 2.75
    entropy = 1 + (0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    (point,) = exit_curve([EARLY, LATE], LABELS, COSTS, [entropy - 1e-6], measure="entropy")
    assert point.shares == (0.5, 0.5)


def test_logits_that_are_not_finite_stay() -> None:
    early = np.array([[np.nan, 0], [np.inf, 0]], np.float32)
    (point,) = exit_curve([early, LATE[:2]], LABELS[:2], COSTS, [0.0])
    assert point.shares == (0.0, 1.0)
    assert candidates([early, LATE[:2]]) == [NEVER]


def test_candidates_are_quantiles() -> None:
    found = candidates([EARLY, LATE], 4)
    np.testing.assert_allclose(found, [0.6, 0.7, 0.9, 0.95, NEVER], rtol=1e-6)
    shares = [point.shares[0] for point in exit_curve([EARLY, LATE], LABELS, COSTS, found)]
    assert shares == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert THRESHOLDS[0] == 0
    assert THRESHOLDS[-1] == NEVER


@pytest.mark.parametrize(
    ("logits", "labels", "costs"),
    [
        ([], LABELS, ()),
        ([EARLY, LATE[:3]], LABELS, COSTS),
        ([EARLY, LATE], LABELS[:3], COSTS),
        ([EARLY, LATE], LABELS, (1.0,)),
        ([EARLY[:0], LATE[:0]], LABELS[:0], COSTS),
    ],
)
def test_numbers_that_do_not_fit(logits: Any, labels: Any, costs: Any) -> None:
    with pytest.raises(ShapeError, match=r"exit_curve: `logits` must be \[N, C\] for each"):
        exit_curve(logits, labels, costs)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "one of `cost` and `lost` must be given, got None and None"),
        ({"cost": 1.0, "lost": 1.0}, "one of `cost` and `lost` must be given"),
        ({"cost": 9.0}, "`cost` must be at least 10, got 9"),
        ({"lost": -1.0}, "`lost` must be at least 0"),
        ({"lost": math.nan}, "`lost` must be at least 0"),
    ],
)
def test_targets_that_cannot_be(target: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(exit_curve([EARLY, LATE], LABELS, COSTS), **target)


def test_a_loss_needs_the_last_exit() -> None:
    with pytest.raises(ConfigError, match="with a point of the last exit alone in `curve`"):
        choose(exit_curve([EARLY, LATE], LABELS, COSTS, [0.5]), lost=1)
