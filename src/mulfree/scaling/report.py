"""Results of scaling as tables and as a plot of accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mulfree.cost.table import scaled as prefixed
from mulfree.cost.table import text_table
from mulfree.errors import printable
from mulfree.figures import panels, save
from mulfree.scaling.plan import Plan

_PLAN_COLUMNS = (
    *("scaling", "phi", "depth", "width", "resolution"),
    *("params", "mul-adds", "additions", "energy"),
)
_SEARCH_COLUMNS = (
    *("candidate", "alpha", "beta", "gamma", "resolution"),
    *("params", "mul-adds", "additions", "energy", "growth"),
)
# More labels beside the points cover each other.
_MAX_LABELS = 12


def plan_table(title: str, plans: Sequence[Plan], *, latency: bool = False) -> str:
    """Plans as a table of plain characters, with the measured seconds if these were fitted."""
    rows = [
        [
            plan.scaling,
            f"{plan.phi:.3f}",
            f"{plan.scaled.depth:.3f}",
            f"{plan.scaled.width:.3f}",
            str(plan.scaled.image_size),
            prefixed(plan.costs.params),
            prefixed(plan.costs.mul_add),
            prefixed(plan.costs.additions),
            prefixed(plan.costs.energy, unit="J", start="p"),
            *([prefixed(plan.measured * 1e12, unit="s", start="p")] if latency else []),
        ]
        for plan in plans
    ]
    columns = (*_PLAN_COLUMNS, "latency") if latency else _PLAN_COLUMNS
    return text_table(title, columns, rows, left=1)


def search_table(title: str, content: Mapping[str, Any]) -> str:
    """Completed candidates of the results of a search, the best first."""
    metric = content["metric"]
    complete = [row for row in content["trials"] if row["state"] == "COMPLETE"]
    rows = [
        [
            str(row["candidate"]),
            *(f"{row[name]:.3f}" for name in ("alpha", "beta", "gamma")),
            str(row["image_size"]),
            *(prefixed(row[name]) for name in ("params", "mul_add", "additions")),
            prefixed(row["energy"], unit="J", start="p"),
            f"{row['growth']:.3f}",
            f"{row[metric]:.4f}",
        ]
        for row in sorted(complete, key=lambda row: -row[metric])
    ]
    return text_table(title, (*_SEARCH_COLUMNS, metric.replace("_", " ")), rows, left=1)


def plot(
    series: Mapping[str, Mapping[str, tuple[float, float]]],
    cost: str,
    accuracy: str,
    path: Path,
) -> None:
    """Draw accuracy against cost as a PNG, one colour for each series.

    Args:
        series: Cost and accuracy of each network, by the names of series and network.
        cost: Label of the cost.
        accuracy: Label of the accuracy.
        path: File, replaced atomically.

    Raises:
        OSError: It cannot be written; an earlier file stays.
    """
    figure, ((axes,),) = panels(1, 1, 7, 4.5)
    for name, points in series.items():
        x, y = zip(*points.values(), strict=True)
        axes.scatter(x, y, s=18, label=printable(name))
        if len(points) <= _MAX_LABELS:
            for label, point in points.items():
                axes.annotate(
                    printable(label), point, (4, 3), textcoords="offset points", fontsize=8
                )
    axes.set_xlabel(printable(cost))
    axes.set_ylabel(accuracy)
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)
