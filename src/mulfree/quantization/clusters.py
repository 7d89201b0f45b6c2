"""Filters of one adder layer in groups that have a grid each, for themselves and what they read.

Legend: O filters, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mulfree.nn import Adder2d
from mulfree.quantization.fixed_point import Reals
from mulfree.quantization.grid import Grid, Layout
from mulfree.quantization.plan import Plan
from mulfree.quantization.steps import Layer

Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cluster:
    """Filters that share a grid.

    Attributes:
        filters: Their numbers, ascending.
        grid: Of their weights and of the copy of the input that they read.
    """

    filters: Indices
    grid: Grid


Clusters: TypeAlias = Mapping[str, tuple[Cluster, ...]]
"""The groups of every layer that has more than one, by the name of the value that it makes."""


def order_of(clusters: tuple[Cluster, ...]) -> Indices:
    """For each filter its place among those of all groups, one group behind the other."""
    return np.argsort(np.concatenate([cluster.filters for cluster in clusters]))


def divisible(plan: Plan, model: nn.Module, count: int) -> frozenset[str]:
    """The values that are made by layers whose filters can be put into `count` groups.

    These are adder layers of at least so many filters that all read the whole input.
    """
    found = set()
    for step in plan.steps:
        if count > 1 and isinstance(step, Layer):
            module = step.layer(model)
            if isinstance(module, Adder2d) and module.groups == 1 and len(module.weight) >= count:
                found.add(step.output)
    return frozenset(found)


def make_clusters(
    layout: Layout,
    model: nn.Module,
    grids: Mapping[str, Grid],
    count: int,
    *,
    shift_only: bool = False,
) -> Clusters:
    """The groups of all layers of `layout.divided`.

    Filters are put together by the largest magnitude of their weights. With `m` the largest of a
    group, `[low, high]` the range of what the layer reads, the group's is
    `[max(low, -m), min(high, m)]`; groups with the same grid become one. For an x outside of it
    `|x - w| = |clip(x) - w| + |x - clip(x)|`, where the second part is the same for all filters of
    the group, and is dropped.

    Args:
        layout: Which integers are where.
        model: The network.
        grids: Every grid of the layout.
        count: G, at most.
        shift_only: Choose scales that are powers of two times `layout.units`.

    References:
        AdderQuant, arXiv 2212.10200: groups, and the scale of each.
    """
    found = {}
    for step in layout.plan.steps:
        if not isinstance(step, Layer) or not layout.divides(step):
            continue
        name = layout.operand(step)
        source, unit = grids[name], layout.units[name] if shift_only else None
        weight = step.layer(model).weight.detach().to("cpu").double()
        largest: Reals = weight.flatten(1).abs().amax(1).numpy()
        members: dict[Grid, list[Indices]] = {}
        for filters in k_means(largest, count):
            reach = float(largest[filters].max())
            low, high = max(source.low, -reach), min(source.high, reach)
            grid = source
            if (low, high) != (source.low, source.high):
                grid = Grid.over(low, high, source.bits, power_of_two=unit)
            members.setdefault(grid, []).append(filters)
        if len(members) > 1:
            found[step.output] = tuple(
                Cluster(filters=np.sort(np.concatenate(parts)), grid=grid)
                for grid, parts in members.items()
            )
    return found


def k_means(values: Reals, count: int) -> list[Indices]:
    """Numbers in groups with the least sum of squared distances from the groups' means.

    In one dimension groups are intervals, so that the best ones are found exactly, by dynamic
    programming over the sorted numbers.

    Args:
        values: `[O]`.
        count: Groups, at most O.

    Returns:
        For each group the indices of its numbers, the group of the smallest numbers first.
    """
    order = np.argsort(values, kind="stable")
    numbers = values[order] - values.mean()
    ends = np.arange(len(numbers) + 1)
    sums, squares = (np.concatenate([[0.0], np.cumsum(numbers**power)]) for power in (1, 2))
    size = (ends - ends[:, None]).astype(float)
    spread = squares - squares[:, None] - (sums - sums[:, None]) ** 2 / np.where(size > 0, size, 1)
    # Row i, column j: of the numbers from i up to but not j.
    spread = np.where(size > 0, spread, np.inf)
    best, starts = spread[0], []
    for _ in range(count - 1):
        total = best[:, None] + spread
        starts.append(total.argmin(0))
        best = total.min(0)
    cuts = [len(numbers)]
    for start in reversed(starts):
        cuts.append(int(start[cuts[-1]]))
    return np.split(order, cuts[:0:-1])
