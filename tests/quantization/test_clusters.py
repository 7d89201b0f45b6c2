from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.quantization.networks import named
from torch import nn

from mulfree.nn import Adder2d
from mulfree.quantization.clusters import (
    Cluster,
    divisible,
    k_means,
    make_clusters,
    order_of,
)
from mulfree.quantization.grid import Grid, Layout
from mulfree.quantization.grouping import make_plan
from mulfree.quantization.steps import Layer


def test_groups_of_numbers_by_hand() -> None:
    values = np.array([9.0, 1.0, 5.0, 1.5, 5.5, 20.0])
    assert [group.tolist() for group in k_means(values, 3)] == [[1, 3], [2, 4, 0], [5]]
    assert [group.tolist() for group in k_means(values, 1)] == [[1, 3, 2, 4, 0, 5]]
    assert sorted(len(group) for group in k_means(values, 6)) == [1] * 6


def test_groups_are_the_best_there_are() -> None:
    rng = np.random.default_rng(0)

    def loss(groups: list[np.ndarray]) -> float:
        return sum(float(((group - group.mean()) ** 2).sum()) for group in groups)

    for count, size in itertools.product((1, 2, 3, 4), (4, 5, 9)):
        # Far from zero, and with numbers that are equal.
        values = 1000 + rng.integers(0, 12, size).astype(float)
        found = k_means(values, count)
        assert sorted(np.concatenate(found).tolist()) == list(range(size))
        assert len(found) == count
        cuts = itertools.combinations(range(1, size), count - 1)
        least = min(loss(np.split(np.sort(values), list(cut))) for cut in cuts)
        assert loss([values[group] for group in found]) == pytest.approx(least, abs=1e-6)


def stacked(layer: nn.Module) -> nn.Sequential:
    """A layer in the middle of a network."""
    first = (nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    return nn.Sequential(*first, layer, nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))


def weighted(*largest: float) -> Adder2d:
    """Four filters with weights of these magnitudes."""
    layer = Adder2d(2, 4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-m, m / 2] for m in largest])[..., None, None])
    return layer


def clusters_of(layer: Adder2d, grid: Grid, *, shift_only: bool = False) -> tuple[Cluster, ...]:
    net = stacked(layer)
    plan = make_plan(net, (1, 1, 1))
    layout = Layout(plan=plan, bits=grid.bits, divided=divisible(plan, net, 3))
    grids = dict.fromkeys(layout.grids, grid)
    found = make_clusters(layout, net, grids, 3, shift_only=shift_only)
    assert found.keys() <= {plan.steps[1].output}
    return found.get(plan.steps[1].output, ())


def test_the_range_of_a_group() -> None:
    grid = Grid(scale=0.1, zero=50, bits=8)  # -5 to 20.5
    small, middle, large = clusters_of(weighted(9.0, 1.0, 40.0, 10.0), grid)
    assert [c.filters.tolist() for c in (small, middle, large)] == [[1], [0, 3], [2]]
    assert (small.grid.low, small.grid.high) == pytest.approx((-1, 1), abs=0.01)
    # Of the input's range below, of the group's largest weight above.
    assert (middle.grid.low, middle.grid.high) == pytest.approx((-5, 10), abs=0.06)
    assert large.grid == grid
    assert order_of((small, middle, large)).tolist() == [1, 0, 3, 2]


def test_groups_of_one_range_are_one() -> None:
    grid = Grid(scale=0.1, zero=0, bits=4)  # 0 to 1.5
    one, other = clusters_of(weighted(3.0, 1.0, 9.0, 1.0), grid)
    assert (one.filters.tolist(), other.filters.tolist()) == ([1, 3], [0, 2])
    assert other.grid == grid
    # All of them as the input, or all alike: as without groups.
    assert clusters_of(weighted(3.0, 2.0, 9.0, 30.0), grid) == ()
    assert clusters_of(weighted(1.0, 1.0, 1.0, 1.0), grid) == ()


def test_groups_with_powers_of_two() -> None:
    grid = Grid(scale=0.5, zero=0, bits=4)  # 0 to 7.5
    one, other = clusters_of(weighted(3.0, 2.0, 5.0, 1.1), grid, shift_only=True)
    assert [c.grid.scale for c in (one, other)] == [0.25, 0.5]
    assert [c.filters.tolist() for c in (one, other)] == [[0, 1, 3], [2]]


def test_layers_that_can_be_divided() -> None:
    net = stacked(nn.Sequential(Adder2d(2, 4, 1), Adder2d(4, 4, 1, groups=2), Adder2d(4, 2, 1)))
    net[5] = nn.Linear(2, 2)
    plan = make_plan(net, (1, 1, 1))
    first, middle, grouped, few, _ = plan.steps
    assert divisible(plan, net, 1) == frozenset()
    assert divisible(plan, net, 2) == {middle.output, few.output}
    assert divisible(plan, net, 4) == {middle.output}
    assert divisible(plan, net, 5) == frozenset()
    assert {first.output, grouped.output} & divisible(plan, net, 2) == set()


def test_only_layers_in_the_middle_are_divided() -> None:
    net = named("lenet5_bn", "adder2d", width=0.5, keep=["last"])
    plan = make_plan(net, (3, 28, 28))
    divided = divisible(plan, net, 2)
    layout = Layout(plan=plan, bits=4, divided=divided)
    first = next(step for step in plan.steps if isinstance(step, Layer))
    assert first.output in divided
    grids = {name: Grid(scale=0.01, zero=0, bits=bits) for name, bits in layout.grids.items()}
    found = make_clusters(layout, net, grids, 2)
    assert first.output not in found
    assert all(cluster.grid.bits == 4 for part in found.values() for cluster in part)
