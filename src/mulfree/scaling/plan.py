"""Networks of a given cost: compound scaling, and scaling in one dimension alone.

References:
    EfficientNet, arXiv 1905.11946, Tables 3 and 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mulfree.cost.energy import number_format
from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.models import ScaledModel, scale
from mulfree.models.scaling import ALPHA, BETA, GAMMA, MAX_PHI
from mulfree.scaling.costs import DTYPE, MEASURES, Costs, costs_of

COMPOUND = "compound"
# Ratios of scaling in one dimension that double the operations, as 2^phi.
_SINGLE = MappingProxyType(
    {
        "depth": (2.0, 1.0, 1.0),
        "width": (1.0, math.sqrt(2), 1.0),
        "resolution": (1.0, 1.0, math.sqrt(2)),
    }
)
# Bisection ends at this difference of phi, 1 % of the operations.
_STEP = 2**-6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A network scaled to a cost.

    Attributes:
        scaling: "compound", or the one dimension that grows.
        phi: Compound coefficient; of one dimension, log2 of its nominal growth of operations.
        scaled: The network.
        costs: Its counted costs.
        measured: The cost that was fitted: operations, pJ or seconds.
    """

    scaling: str
    phi: float
    scaled: ScaledModel
    costs: Costs
    measured: float


def fit(
    name: str,
    measure: str,
    target: float,
    ratios: tuple[float, float, float] = (ALPHA, BETA, GAMMA),
    *,
    scaling: str = COMPOUND,
    nearest: bool = False,
    dtype: str = DTYPE,
    **options: Any,
) -> Plan:
    """Find the largest phi of a cost within a target, by bisection.

    A cost grows in steps: blocks, channels and pixels are whole numbers. Latency is measured anew
    at every step of the bisection, on networks of at most about twice the target.

    Args:
        name: Name of the model.
        measure: Kind of the cost: a key of `MEASURES`.
        target: Largest cost: operations, pJ, or seconds.
        ratios: alpha, beta and gamma.
        scaling: Name of the plan.
        nearest: Also accept the next larger network, if its cost is nearer to the target.
        dtype: Number format of the energy.
        **options: Options of `models.scale`.

    Raises:
        ConfigError: The target is below the cost of the network itself or above any phi's, or an
            argument is invalid.
    """
    if measure not in MEASURES:
        raise ConfigError(choices_message("scale plan", "measure", measure, MEASURES))
    number_format(dtype)
    number = isinstance(target, (int, float)) and not isinstance(target, bool)
    if not number or not 0 < target < math.inf:
        raise ConfigError(f"scale plan: `target` must be a positive number, got {quoted(target)}")

    def cost(phi: float) -> float:
        return MEASURES[measure](scale(name, phi, *ratios, **options), dtype)

    base = cost(0.0)
    if base > target:
        raise ConfigError(
            f"scale plan: `target` must be at least the {measure} {base:.4g} of {name} itself, "
            f"got {target:.4g}"
        )
    low, within, above = _bracket(cost, base, target)
    high = low + 1.0
    if above == math.inf and high > MAX_PHI:
        raise ConfigError(
            f"scale plan: `target` must be at most the {measure} {within:.4g} of {name} at phi "
            f"{MAX_PHI:g}, got {target:.4g}"
        )
    while high - low > _STEP:
        middle = (low + high) / 2
        value = _bounded(cost, middle)
        if value <= target:
            low, within = middle, value
        else:
            high, above = middle, value
    if nearest and above / target < target / within:
        low, within = high, above
    scaled = scale(name, low, *ratios, **options)
    return Plan(
        scaling=scaling,
        phi=low,
        scaled=scaled,
        costs=costs_of(scaled, dtype),
        measured=within,
    )


def single(
    name: str, measure: str, target: float, *, dtype: str = DTYPE, **options: Any
) -> list[Plan]:
    """Networks nearest to a cost by depth, width and resolution scaling alone.

    See `fit` for the arguments and errors.
    """
    return [
        fit(name, measure, target, each, scaling=scaling, nearest=True, dtype=dtype, **options)
        for scaling, each in _SINGLE.items()
    ]


def equal_cost(
    name: str,
    measure: str,
    target: float,
    ratios: tuple[float, float, float] = (ALPHA, BETA, GAMMA),
    *,
    dtype: str = DTYPE,
    **options: Any,
) -> dict[str, Plan]:
    """Networks nearest to a cost by compound scaling and by each dimension alone.

    See `fit` for the arguments and errors.
    """
    compound = fit(name, measure, target, ratios, nearest=True, dtype=dtype, **options)
    others = single(name, measure, target, dtype=dtype, **options)
    return {plan.scaling: plan for plan in (compound, *others)}


def _bracket(
    cost: Callable[[float], float], base: float, target: float
) -> tuple[float, float, float]:
    """Largest whole phi within the target, its cost, and the cost one further."""
    low, within = 0.0, base
    while True:
        above = _bounded(cost, low + 1.0)
        if above > target:
            return low, within, above
        low, within = low + 1.0, above


def _bounded(cost: Callable[[float], float], phi: float) -> float:
    """Cost at phi; infinite above the largest depth, width or resolution of a network."""
    try:
        return cost(phi)
    except ConfigError:
        return math.inf
