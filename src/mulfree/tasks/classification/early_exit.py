"""Early exit: accuracy against cost over thresholds, and their choice on held-out images.

Thresholds are chosen on images that belong neither to the training nor to the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import ConfigError, ShapeError
from mulfree.runtime.exits import confidence

NEVER = 2.0
"""A threshold above every confidence: all images take the last exit."""
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, NEVER)
"""Thresholds of a table, which depend on no image."""


@dataclass(frozen=True, kw_only=True)
class ExitPoint:
    """A network with one threshold for all exits.

    Attributes:
        threshold: Least confidence for leaving.
        accuracy: Fraction of the images that are recognised at the exit they take.
        cost: Mean cost of an image, in the unit of the costs of the exits.
        shares: Fraction of the images that take each exit.
    """

    threshold: float
    accuracy: float
    cost: float
    shares: tuple[float, ...]


def exit_curve(
    logits: Sequence[NDArray[Any]],
    labels: NDArray[Any],
    costs: Sequence[float],
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    measure: str = "probability",
) -> list[ExitPoint]:
    """Return accuracy and mean cost for each of some thresholds.

    Args:
        logits: Of every exit in order, `[N, C]` each.
        labels: `[N]`.
        costs: Cost of an image up to each exit.
        thresholds: Least confidence for leaving, at all exits but the last.
        measure: Measure of confidence, see `mulfree.runtime.exits.confidence`.

    Raises:
        ShapeError: There is no image, or numbers of exits or images differ.
    """
    shapes = {np.shape(rows)[:1] for rows in logits} | {np.shape(labels)}
    if len(shapes) != 1 or shapes == {(0,)} or len(costs) != len(logits) or not logits:
        raise ShapeError(
            "exit_curve: `logits` must be [N, C] for each of the costs, with N labels and N >= 1, "
            f"got {[list(np.shape(rows)) for rows in logits]}, {len(costs)} costs and "
            f"{list(np.shape(labels))} labels"
        )
    *sure, last = (confidence(np.asarray(rows, np.float32), measure) for rows in logits)
    # Every image takes the last exit at the latest.
    confidences = np.stack([*sure, np.full_like(last, np.inf)])
    right = np.stack([np.argmax(rows, axis=1) == labels for rows in logits])
    images = np.arange(len(labels))
    points = []
    for threshold in thresholds:
        taken = (confidences >= threshold).argmax(axis=0)
        shares = np.bincount(taken, minlength=len(logits)) / len(labels)
        points.append(
            ExitPoint(
                threshold=float(threshold),
                accuracy=float(right[taken, images].mean()),
                cost=float(shares @ np.asarray(costs, np.float64)),
                shares=tuple(shares.tolist()),
            )
        )
    return points


def candidates(
    logits: Sequence[NDArray[Any]], count: int = 100, *, measure: str = "probability"
) -> list[float]:
    """Return thresholds at which about equal numbers of images change their exits.

    Args:
        logits: Of every exit in order, `[N, C]` each, of held-out images.
        count: Number of quantiles of the confidences.
        measure: Measure of confidence.
    """
    found = [confidence(np.asarray(rows, np.float32), measure) for rows in logits[:-1]]
    finite = np.concatenate(found)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return [NEVER]
    return [*np.unique(np.quantile(finite, np.linspace(0, 1, count))).tolist(), NEVER]


def choose(
    curve: Sequence[ExitPoint], *, cost: float | None = None, lost: float | None = None
) -> ExitPoint:
    """Return the point of a curve on held-out images for a target.

    Args:
        curve: Points, one of them with the threshold `NEVER` for `lost`.
        cost: Greatest mean cost: the most accurate point within it.
        lost: Greatest loss of accuracy against the last exit alone, in points of a hundred: the
            cheapest point within it.

    Raises:
        ConfigError: Not one of the two targets, or no point is within it.
    """
    if (cost is None) == (lost is None):
        raise ConfigError(f"choose: one of `cost` and `lost` must be given, got {cost} and {lost}")
    if cost is not None:
        within = [point for point in curve if point.cost <= cost]
        if not within:
            least = min((point.cost for point in curve), default=float("nan"))
            raise ConfigError(f"choose: `cost` must be at least {least:g}, got {cost:g}")
        return max(within, key=lambda point: (point.accuracy, -point.cost))
    whole = [point for point in curve if point.threshold >= NEVER]
    if not whole or not lost >= 0:  # type: ignore[operator]
        raise ConfigError(
            "choose: `lost` must be at least 0, with a point of the last exit alone in `curve`, "
            f"got {lost}"
        )
    assert lost is not None
    # Shares of images, whose sums round.
    least = whole[0].accuracy - lost / 100 - 1e-9
    within = [point for point in curve if point.accuracy >= least]
    return min(within, key=lambda point: (point.cost, -point.accuracy))
