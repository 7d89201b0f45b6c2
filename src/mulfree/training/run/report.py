"""Report files of a run: metrics.csv, metrics.json, curves.png."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mulfree.figures import panels, save
from mulfree.files import write_atomically
from mulfree.tasks import Task

Row = dict[str, float]
METRICS_CSV = "metrics.csv"
METRICS_JSON = "metrics.json"
CURVES = "curves.png"


def write_csv(path: Path, history: Sequence[Row]) -> None:
    """Write one line per epoch."""
    text = io.StringIO(newline="")
    if history:
        # A run may be resumed by a version that reports more.
        names = list(dict.fromkeys(name for row in history for name in row))
        writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    write_atomically(path, text.getvalue().encode())


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` as indented JSON."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def write_curves(path: Path, history: Sequence[Row], held_out: str, task: Task) -> None:
    """Plot the metrics by epoch: training solid, held-out data dashed."""
    epochs = [row["epoch"] for row in history]
    parts = (("train", "-"), (held_out, "--"))
    keys = dict.fromkeys(key for row in history for key in row)
    names = [key.removeprefix("train_") for key in keys if key.startswith("train_")]
    metrics = task.report.panels(names)
    figure, (grid,) = panels(1, len(metrics), 9 / len(metrics), 3.6)
    marker = "." if len(epochs) < 3 else ""
    for axes, (metric, curves) in zip(grid, metrics, strict=True):
        for colour, curve in enumerate(curves):
            prefix = curve.removesuffix(metric).replace("_", " ")
            for name, style in parts:
                values = [row[f"{name}_{curve}"] for row in history if f"{name}_{curve}" in row]
                if len(values) == len(epochs):
                    label = f"{prefix}{name}"
                    axes.plot(epochs, values, style, color=f"C{colour}", label=label, marker=marker)
        axes.set_xlabel("epoch")
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path)
