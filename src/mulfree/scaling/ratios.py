"""Ratios of depth, width and resolution under a constraint on the growth of a cost.

References:
    EfficientNet, arXiv 1905.11946, equation 3: alpha * beta^2 * gamma^2 near 2, all at least 1.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.models import ScaledModel, scale
from mulfree.models.scaling import MAX_RATIO
from mulfree.scaling.costs import DTYPE, MEASURES, costs_of
from mulfree.scaling.plan import fit

PRODUCT = "product"
CONSTRAINTS = (PRODUCT, "mul-add", "additions", "energy")
# Measured growth is computed for products up to this factor from the required one.
_REACH = 1.5
_MIN_STEP = 0.01


class Ratios(NamedTuple):
    """Growth of depth, width and resolution at phi = 1."""

    alpha: float
    beta: float
    gamma: float

    @property
    def product(self) -> float:
        """Alpha * beta^2 * gamma^2, the nominal growth of the operations."""
        return self.alpha * self.beta**2 * self.gamma**2


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """Required growth of a cost from phi = 0 to phi = 1.

    Attributes:
        kind: "product" for the rule of the paper, or a measured cost: "mul-add", "additions" or
            "energy".
        growth: Required growth.
        tolerance: Largest difference from it.

    Raises:
        ConfigError: A value is out of range.
    """

    kind: str = PRODUCT
    growth: float = 2.0
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in CONSTRAINTS:
            raise ConfigError(choices_message("scale search", "constraint", self.kind, CONSTRAINTS))
        for name, low, high in (("growth", 1.0, 16.0), ("tolerance", 0.0, 1.0)):
            value = getattr(self, name)
            if not low < value <= high:
                raise ConfigError(
                    f"scale search: `{name}` must be above {low:g} and at most {high:g}, "
                    f"got {quoted(value)}"
                )

    def holds(self, growth: float) -> bool:
        """Return whether a growth is within the tolerance."""
        return abs(growth - self.growth) <= self.tolerance


class Growth:
    """Growth of the cost of a network from phi = 0 to phi = 1.

    Args:
        constraint: Kind of the cost, and its required growth.
        name: Name of the model.
        options: Arguments of `models.scale`.
    """

    def __init__(self, constraint: Constraint, name: str, options: Mapping[str, Any]) -> None:
        self.constraint = constraint
        self.name = name
        self.options = dict(options)

    def __call__(self, ratios: Ratios) -> float:
        """Return the growth with these ratios."""
        if self.constraint.kind == PRODUCT:
            return ratios.product
        return self._cost(self.scaled(ratios)) / self._base

    def scaled(self, ratios: Ratios) -> ScaledModel:
        """Return the network at phi = 1."""
        return scale(self.name, 1, *ratios, **self.options)

    def normalised(self, ratios: Ratios) -> Ratios:
        """Raise ratios to the power at which the growth is nearest to the required one."""
        required = self.constraint.growth
        if self.constraint.kind == PRODUCT:
            power = math.log(required) / math.log(ratios.product)
        else:
            kind, target = self.constraint.kind, required * self._base
            power = fit(self.name, kind, target, ratios, nearest=True, **self.options).phi
        return Ratios(*(ratio**power for ratio in ratios))

    @functools.cached_property
    def _base(self) -> float:
        return self._cost(scale(self.name, 0, **self.options))

    def _cost(self, scaled: ScaledModel) -> float:
        return MEASURES[self.constraint.kind](scaled, DTYPE)


def grid(growth: Growth, step: float) -> list[Ratios]:
    """Ratios on a grid that meet a constraint, nearest to the required growth first.

    Of several ratios that round to one network only the first is kept.

    Args:
        growth: Growth of the network, with its constraint.
        step: Distance of the ratios of one dimension; they start at 1.

    Raises:
        ConfigError: The step is out of range, no ratios meet the constraint, or the network cannot
            be scaled.
    """
    if not _MIN_STEP <= step <= 1:
        raise ConfigError(
            f"scale search: `step` must be from {_MIN_STEP:g} to 1, got {quoted(step)}"
        )
    constraint = growth.constraint
    most = constraint.growth + constraint.tolerance
    if constraint.kind != PRODUCT:
        most *= _REACH
    sides = [_values(step, min(high, MAX_RATIO)) for high in (most, most**0.5, most**0.5)]
    near = [Ratios(*values) for values in itertools.product(*sides)]
    if constraint.kind != PRODUCT:
        least = constraint.growth / _REACH
        near = [ratios for ratios in near if least <= ratios.product <= most]
    growths = {ratios: growth(ratios) for ratios in near}
    meeting = [ratios for ratios, value in growths.items() if constraint.holds(value)]
    meeting.sort(key=lambda ratios: (abs(growths[ratios] - constraint.growth), ratios))
    found: dict[tuple[int, int, int], Ratios] = {}
    for ratios in meeting:
        scaled = growth.scaled(ratios)
        costs = costs_of(scaled)
        found.setdefault((scaled.image_size, costs.params, costs.mul_add), ratios)
    if not found:
        raise ConfigError(
            f"scale search: `step` must leave ratios with a growth of {constraint.growth:g} +- "
            f"{constraint.tolerance:g}, got {step:g}; lower it or raise the tolerance"
        )
    return list(found.values())


def direction(depth: float, width: float) -> Ratios:
    """Ratios of product 2 from two numbers of the unit interval.

    Args:
        depth: Share of the depth in the growth.
        width: Share of the width in the rest.
    """
    share = (1 - depth) * width
    return Ratios(2**depth, 2 ** (share / 2), 2 ** ((1 - depth - share) / 2))


def _values(step: float, most: float) -> tuple[float, ...]:
    count = math.floor((most - 1) / step + 1e-9)
    return tuple(round(1 + index * step, 6) for index in range(count + 1))
