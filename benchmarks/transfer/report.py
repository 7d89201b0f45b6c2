"""Table and plot of the runs of transfer."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mulfree.figures import panels, save
from mulfree.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE, PLOT = "table.md", "transfer.png"

Runs = list[dict[str, Any]]
Key = tuple[str, str, str, float]


def write(folder: Path, runs: Runs) -> None:
    """Write both, of the learning rate with the best validation accuracy of each setting."""
    chosen = best(runs)
    write_atomically(folder / TABLE, ("\n".join(_table(chosen)) + "\n").encode())
    if chosen:
        save(_plot(chosen), folder / PLOT)


def best(runs: Runs) -> dict[Key, Runs]:
    """Return the runs of each network, data set, mode and fraction, at its best learning rate.

    The best one has the highest mean validation accuracy over the seeds; the test images have no
    part in it.
    """
    by_lr: dict[Key, dict[float, Runs]] = {}
    for run in runs:
        key = (run["network"], run["data"], run["mode"], run["fraction"])
        by_lr.setdefault(key, {}).setdefault(run["lr"], []).append(run)
    return {
        key: max(rates.values(), key=lambda runs: _mean(runs, "validation_accuracy"))
        for key, rates in by_lr.items()
    }


def _mean(runs: Iterable[dict[str, Any]], value: str) -> float:
    return statistics.mean(float(run[value]) for run in runs)


def _table(chosen: dict[Key, Runs]) -> Iterator[str]:
    yield "| data | network | training | labels | images | lr | seeds | validation | test |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (network, name, mode, fraction), runs in sorted(chosen.items(), key=_order):
        cells = [name, network, mode, f"{100 * fraction:g} %", str(runs[0]["training_images"])]
        cells += [f"{runs[0]['lr']:g}", str(len(runs))]
        cells += [f"{100 * _mean(runs, f'{p}_accuracy'):.2f} %" for p in ("validation", "test")]
        yield f"| {' | '.join(cells)} |"


def _order(item: tuple[Key, Runs]) -> tuple[str, str, float, str]:
    (network, name, mode, fraction), _ = item
    return name, network, fraction, mode


def _plot(chosen: dict[Key, Runs]) -> Figure:
    """Test accuracy against the share of the labels, a panel for each data set."""
    names = sorted({name for _, name, _, _ in chosen})
    networks = sorted({network for network, _, _, _ in chosen})
    modes = sorted({mode for _, _, mode, _ in chosen})
    figure, (row,) = panels(1, len(names), 4.8, 3.8)
    for axes, name in zip(row, names, strict=True):
        for network, mode in ((n, m) for n in networks for m in modes):
            points = {
                100 * key[3]: 100 * _mean(runs, "test_accuracy")
                for key, runs in sorted(chosen.items())
                if key[:3] == (network, name, mode)
            }
            style = ("-", "--", ":")[networks.index(network) % 3]
            axes.plot(
                list(points),
                list(points.values()),
                style,
                marker=".",
                color=f"C{modes.index(mode)}",
                label=f"{network}, {mode}",
            )
        axes.set_xscale("log")
        axes.set_xticks([1, 10, 100], ["1", "10", "100"])
        axes.set_xlabel("labels (%)")
        axes.set_ylabel("test accuracy (%)")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    row[-1].legend(fontsize="small")
    return figure
