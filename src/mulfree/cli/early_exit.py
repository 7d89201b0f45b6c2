"""Networks with exits in commands: sessions, costs of the exits, tables over thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import ConfigError
from mulfree.opcounts import OpCounts
from mulfree.runtime import EarlyExitSession, Graph, Session
from mulfree.runtime.source import load_graph
from mulfree.tasks.classification.early_exit import (
    NEVER,
    ExitPoint,
    candidates,
    choose,
    exit_curve,
)

if TYPE_CHECKING:
    from mulfree.data import BatchLoader
    from mulfree.models.early_exit import EarlyExitNetwork

Outputs = tuple[list[NDArray[np.float32]], NDArray[np.int64]]
"""Logits of every exit, `[N, C]` each, and labels `[N]`."""


def open_session(
    command: str, source: Path | Graph, threads: int | None, threshold: float | None = None
) -> Session:
    """Open a quantised network; one with several outputs leaves at its confident exits.

    Raises:
        ConfigError: A threshold is given for a network with one output, or missing.
    """
    graph = load_graph(source, None)
    if len(graph.output_sizes) > 1:
        if threshold is None and graph.exits is None:
            raise ConfigError(
                f"{command}: `--threshold` must be given for this network with exits, as its file "
                "holds none"
            )
        return EarlyExitSession(graph, thresholds=threshold, threads=threads)
    if threshold is not None:
        raise ConfigError(
            f"{command}: `--threshold` must be left out for a network without exits, "
            f"got {threshold:g}"
        )
    return Session(graph, threads=threads)


def classified(
    session: Session, images: NDArray[Any]
) -> tuple[NDArray[np.float32], list[str | None]]:
    """Logits of images, and the name of the exit that each takes; None without exits."""
    if not isinstance(session, EarlyExitSession):
        return session.run(images), [None] * len(images)
    names = list(session.graph.output_sizes)
    logits, exits = session.run_exits(images)
    return logits, [names[number] for number in exits]


def float_costs(network: EarlyExitNetwork) -> list[OpCounts]:
    """Operations of a float network for one image up to every exit."""
    from mulfree import cost, models
    from mulfree.models.early_exit import AllExits

    size = models.input_size(network)
    return [
        cost.count(AllExits(network, name), size, name=name).total.cost for name in network.outputs
    ]


def float_outputs(network: EarlyExitNetwork, loader: Iterable[Any]) -> Outputs:
    """Logits of a float network in evaluation mode, and labels."""
    import torch

    dtype = next(network.parameters()).dtype
    rows, labels = [], []
    with torch.inference_mode():
        for images, targets in loader:
            found = network.all_logits(images.to(dtype)).values()
            rows.append([logits.float().cpu().numpy() for logits in found])
            labels.append(targets.cpu().numpy())
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)], np.concatenate(labels)


def integer_outputs(graph: Graph, loader: BatchLoader, threads: int | None) -> Outputs:
    """Logits of a quantised network, and labels."""
    session = Session(graph, threads=threads)
    rows, labels = [], []
    for images, targets in loader:
        rows.append(list(session.run_all(images.numpy()).values()))
        labels.append(targets.numpy())
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)], np.concatenate(labels)


def chosen_threshold(held_out: Outputs, costs: Sequence[OpCounts], lost: float) -> float:
    """Threshold on held-out images at which at most `lost` points of accuracy are lost."""
    logits, labels = held_out
    totals = [float(count.total) for count in costs]
    return choose(exit_curve(logits, labels, totals, candidates(logits)), lost=lost).threshold


def table(names: Sequence[str], points: Sequence[ExitPoint], costs: Sequence[OpCounts]) -> str:
    """One line for each threshold: accuracy, mean operations, share of the images at each exit."""
    head = ["threshold", "accuracy", "additions", "multiplications", *names]
    rows = [
        [
            "never" if point.threshold >= NEVER else f"{point.threshold:.4g}",
            f"{point.accuracy:.2%}",
            *(f"{mean(point, costs, kind):,.0f}" for kind in ("add", "mul")),
            *(f"{share:.1%}" for share in point.shares),
        ]
        for point in points
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    )
    return "\n".join(lines)


def mean(point: ExitPoint, costs: Sequence[OpCounts], kind: str) -> float:
    """Mean number of operations of a kind for an image."""
    return sum(share * count[kind] for share, count in zip(point.shares, costs, strict=True))


def to_json(
    names: Sequence[str], points: Sequence[ExitPoint], costs: Sequence[OpCounts]
) -> list[dict[str, Any]]:
    """Rows of `table` as JSON values; the threshold is None where no image leaves."""
    return [
        {
            "threshold": None if point.threshold >= NEVER else point.threshold,
            "accuracy": point.accuracy,
            "additions": mean(point, costs, "add"),
            "multiplications": mean(point, costs, "mul"),
            "shares": dict(zip(names, point.shares, strict=True)),
        }
        for point in points
    ]
