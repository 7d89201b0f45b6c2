"""Networks of dynamic resolution on the command line: their choices, and their integers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mulfree.cli.progress import with_progress
from mulfree.cost.table import scaled, text_table
from mulfree.runtime import DynamicResolutionSession

if TYPE_CHECKING:
    from mulfree.data import BatchLoader, DataSplits
    from mulfree.inspection import Resolutions
    from mulfree.models import ImageSpec
    from mulfree.models.dynamic_resolution import DynamicResolutionNetwork
    from mulfree.runtime import Graph


def find_resolutions(
    plot: Path | None, model: DynamicResolutionNetwork, loader: BatchLoader, splits: DataSplits
) -> Resolutions:
    """Return the choices of a network, and plot them.

    Args:
        plot: File of the plot; None for none.
        model: The network.
        loader: Images and labels.
        splits: The data they are of.
    """
    from mulfree import inspection

    found = inspection.inspect_resolutions(model, with_progress(loader, "resolutions"))
    if plot is not None:
        inspection.save(inspection.plot_resolutions(found, splits.mean, splits.std), plot)
    return found


def accuracy(
    graphs: dict[str, Graph], test: BatchLoader, label: str, threads: int | None, spec: ImageSpec
) -> float:
    """Accuracy of the integer networks of all resolutions on the test images."""
    session = DynamicResolutionSession(graphs, threads=threads)
    mean, std = (np.reshape(row, (-1, 1, 1)) for row in (spec.mean, spec.std))
    right = 0
    for images, labels in with_progress(test, label):
        pixels = ((images.numpy() * std + mean) * 255).round().clip(0, 255).astype(np.uint8)
        right += int((session.run(pixels).argmax(axis=1) == labels.numpy()).sum())
    return right / len(test.image_set)


def resolutions_to_text(found: Resolutions) -> str:
    """Table of the candidate resolutions, and the mean cost."""
    total = sum(found.images)
    rows = [
        [str(side), f"{count / total:.1%}", f"{accuracy:.2%}", scaled(operations)]
        for side, count, accuracy, operations in zip(
            found.sides, found.images, found.accuracies, found.operations, strict=True
        )
    ]
    table = text_table(
        "Resolutions", ("side", "images", "accuracy alone", "operations"), rows, left=1
    )
    cost = found.mean_operations
    return (
        f"{table}mean cost {scaled(round(cost))} operations, "
        f"{cost / max(found.operations):.1%} of the largest resolution, with "
        f"{scaled(found.predictor_operations)} of the predictor"
    )


def resolutions_to_json(found: Resolutions) -> dict[str, Any]:
    """Choices as JSON values."""
    rows = zip(found.sides, found.images, found.accuracies, found.operations, strict=True)
    names = ("side", "images", "accuracy_alone", "operations")
    return {
        "resolutions": [dict(zip(names, row, strict=True)) for row in rows],
        "predictor_operations": found.predictor_operations,
        "mean_operations": found.mean_operations,
    }
