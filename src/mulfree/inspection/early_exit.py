"""Accuracy of a network with exits against its mean cost, with static networks beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mulfree.errors import printable
from mulfree.figures import panels
from mulfree.tasks.classification.early_exit import ExitPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_LABEL = 40


def plot_exits(
    curves: Mapping[str, Sequence[ExitPoint]],
    static: Mapping[str, tuple[float, float]],
    unit: str,
) -> Figure:
    """One curve for each network with exits, a point for each threshold and each static network.

    Args:
        curves: Points by the name of the network.
        static: Cost and accuracy of networks without exits, by name.
        unit: Unit of the costs.
    """
    figure, [[axes]] = panels(1, 1, 6.0, 4.2)
    for name, points in curves.items():
        ordered = sorted(points, key=lambda point: point.cost)
        costs, accuracies = zip(*((p.cost, 100 * p.accuracy) for p in ordered), strict=True)
        axes.plot(costs, accuracies, marker="o", markersize=3, label=_label(name))
    for name, (cost, accuracy) in static.items():
        axes.scatter([cost], [100 * accuracy], marker="s", label=_label(name))
    axes.set_xlabel(f"mean {unit} of an image")
    axes.set_ylabel("accuracy in %")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    legend = axes.legend(fontsize=8)
    for text in legend.get_texts():
        text.set(parse_math=False)
    return figure


def _label(name: str) -> str:
    # A legend leaves out labels that begin with an underscore.
    return printable(name, _MAX_LABEL).lstrip("_") or "network"
