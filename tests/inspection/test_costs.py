from __future__ import annotations

import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mulfree import cost
from mulfree.inspection import plot_comparison
from mulfree.opcounts import OpCounts


def network(name: str, **formats: float) -> cost.NetworkCost:
    energy = {
        dtype: cost.Energy(arithmetic=value, sram=value, dram=10 * value)
        for dtype, value in formats.items()
    }
    counts = OpCounts(mul=10, add=20)
    return cost.NetworkCost(name=name, input_size=(1, 2, 2), cost=counts, params=7, energy=energy)


def bars(axes: Axes) -> list[Rectangle]:
    return [bar for bar in axes.patches if isinstance(bar, Rectangle)]


def widths(axes: Axes) -> list[float]:
    return [bar.get_width() for bar in bars(axes)]


LATENCY = cost.Latency(seconds={"a": 0.5}, processor="abacus $x$", threads=1, rounds=1)


def test_bars_of_every_quantity() -> None:
    networks = (network("a", fp32=2e6, int8=1e6), network("b$x$\n", int8=5e5))
    comparison = cost.Comparison(networks=networks, convention="exact", latency=LATENCY)
    figure = plot_comparison(comparison)
    operations, parameters, energy, latency = figure.axes
    assert widths(operations) == [10, 10, 20, 20]
    assert [bar.get_x() for bar in bars(operations)] == [
        0,
        0,
        10,
        10,
    ]
    assert widths(parameters) == [7, 7]
    assert widths(energy) == pytest.approx([2, 20, 1, 0.5, 10, 5])
    assert widths(latency) == [500, 0]
    names = [label.get_text() for label in operations.get_yticklabels()]
    assert names == ["a", "b$x$ "]
    assert latency.get_title() == "abacus $x$"
    figure.canvas.draw()


def test_latency_has_a_panel_only_where_it_was_measured() -> None:
    comparison = cost.Comparison(networks=(network("a", fp32=1.0),), convention="exact")
    assert len(plot_comparison(comparison).axes) == 3
