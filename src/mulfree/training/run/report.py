"""The files that tell of a run: metrics.csv, metrics.json, curves.png."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mulfree.files import write_atomically

Row = dict[str, float]
METRICS_CSV = "metrics.csv"
METRICS_JSON = "metrics.json"
CURVES = "curves.png"


def write_csv(path: Path, history: Sequence[Row]) -> None:
    """One line per epoch."""
    text = io.StringIO(newline="")
    if history:
        # A run may go on with a version that reports more.
        names = list(dict.fromkeys(name for row in history for name in row))
        writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    write_atomically(path, text.getvalue().encode())


def write_json(path: Path, values: dict[str, Any]) -> None:
    """`values` as indented JSON."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def write_curves(path: Path, history: Sequence[Row], held_out: str) -> None:
    """Accuracy and loss by epoch, and a teacher's: training solid, held-out data dashed."""
    # Not pyplot: it would choose a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in history]
    panels: list[tuple[str, Sequence[str]]] = [("accuracy", ("", "teacher_")), ("loss", ("",))]
    if any("train_agreement" in row for row in history):
        panels.insert(1, ("agreement", ("",)))
    marker = "." if len(epochs) < 3 else ""
    for axes, (metric, whose) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for colour, who in enumerate(whose):
            for name, style in (("train", "-"), (held_out, "--")):
                key = f"{name}_{who}{metric}"
                values = [row[key] for row in history if key in row]
                if len(values) == len(epochs):
                    label = f"{who.replace('_', ' ')}{name}"
                    axes.plot(epochs, values, style, color=f"C{colour}", label=label, marker=marker)
        axes.set_xlabel("epoch")
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
        axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomically(path, image.getvalue())
