"""Figures without a window, and their files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from mulfree.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 120


def panels(
    rows: int, columns: int, width: float, height: float, *, share_vertical: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """Create a figure and its grid of panels of a size in inches.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        width: Width of a panel.
        height: Height of a panel.
        share_vertical: All panels have one vertical axis.
    """
    # Not pyplot: it would choose a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_vertical)
    return figure, grid.tolist()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, atomically.

    Raises:
        OSError: It cannot be written; an earlier file stays.
    """
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI)
    write_atomically(path, image.getvalue())
