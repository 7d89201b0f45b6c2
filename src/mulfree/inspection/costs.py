"""Bars of what networks cost, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mulfree.cost import Comparison
from mulfree.cost.comparison_report import ENERGY_TITLES
from mulfree.errors import printable
from mulfree.figures import panels
from mulfree.opcounts import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_WIDTH, _BAR_HEIGHT, _MARGIN = 4.0, 0.6, 1.6
_MAX_LABEL = 40


def plot_comparison(comparison: Comparison) -> Figure:
    """A panel each of operations, parameters, energy and, if measured, latency.

    Operations are stacked by kind. Energy has a bar for each number format, on a logarithmic axis:
    arithmetic alone, and in a pale colour with the traffic of DRAM.
    """
    draw: list[Callable[[Axes, Comparison], None]] = [_operations, _parameters, _energy]
    if comparison.latency is not None:
        draw.append(_latency)
    height = _MARGIN + _BAR_HEIGHT * len(comparison.networks)
    figure, (row,) = panels(1, len(draw), _PANEL_WIDTH, height, share_vertical=True)
    for axes, panel in zip(row, draw, strict=True):
        panel(axes, comparison)
        axes.grid(axis="x", alpha=0.3)
    names = [printable(network.name, _MAX_LABEL) for network in comparison.networks]
    row[0].set_yticks(range(len(names)), names, parse_math=False)
    row[0].invert_yaxis()
    return figure


def _operations(axes: Axes, comparison: Comparison) -> None:
    places = range(len(comparison.networks))
    left = [0] * len(comparison.networks)
    for kind in KINDS:
        counts = [network.cost[kind] for network in comparison.networks]
        if any(counts):
            axes.barh(places, counts, left=left, label=f"#{kind}")
            left = [start + number for start, number in zip(left, counts, strict=True)]
    _scale(axes, "operations")
    _legend(axes)


def _parameters(axes: Axes, comparison: Comparison) -> None:
    _bars(axes, [float(network.params) for network in comparison.networks], "parameters")


def _energy(axes: Axes, comparison: Comparison) -> None:
    width = 0.8 / len(ENERGY_TITLES)
    for index, (dtype, title) in enumerate(ENERGY_TITLES.items()):
        found = [
            (place + (index - 1) * width, network.energy[dtype])
            for place, network in enumerate(comparison.networks)
            if dtype in network.energy
        ]
        places = [place for place, _ in found]
        arithmetic = [energy.arithmetic * 1e-6 for _, energy in found]
        total = [energy.dram * 1e-6 for _, energy in found]
        bars = axes.barh(places, arithmetic, width, label=title)
        if found:
            axes.barh(places, total, width, color=bars[0].get_facecolor(), alpha=0.35, zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("energy, uJ (pale: + DRAM)")
    _legend(axes)


def _latency(axes: Axes, comparison: Comparison) -> None:
    assert comparison.latency is not None
    seconds = comparison.latency.seconds
    values = [1e3 * seconds.get(network.name, 0.0) for network in comparison.networks]
    _bars(axes, values, "latency, ms")
    axes.set_title(printable(comparison.latency.processor), fontsize=8, parse_math=False)


def _bars(axes: Axes, values: Sequence[float], label: str) -> None:
    axes.barh(range(len(values)), values)
    _scale(axes, label)


def _scale(axes: Axes, label: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter())


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)
