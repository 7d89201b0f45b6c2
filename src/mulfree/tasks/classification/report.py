"""Report of classification: epoch line, curves and summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def epoch_line(row: Mapping[str, float], part: str) -> str:
    """Loss, accuracy and comparisons of an epoch on one part of the data.

    Args:
        row: Metrics of the epoch, as `<part>_<metric>`.
        part: Such as "train" or "test".
    """
    values = {k.removeprefix(f"{part}_"): v for k, v in row.items() if k.startswith(f"{part}_")}
    text = f"loss {values['loss']:.4f}"
    if "accuracy" in values:
        text += f" accuracy {values['accuracy']:.2%}"
    for name, value in values.items():
        if name.endswith("_accuracy"):
            text += f" {name.removesuffix('_accuracy')} {value:.2%}"
    if "agreement" in values:
        text += f" agreement {values['agreement']:.2%}"
    return f"{part} {text}"


def panels(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Accuracies, agreement where there is one, and loss.

    Args:
        names: Names of metrics.
    """
    accuracies = [name for name in names if name.endswith("_accuracy")]
    found = [("accuracy", ["accuracy", *accuracies])]
    if "agreement" in names:
        found.append(("agreement", ["agreement"]))
    return [*found, ("loss", ["loss"])]


def summary(metrics: Mapping[str, Any]) -> str:
    """Accuracy and loss on the test images."""
    return (
        f"{metrics['test_accuracy']:.2%} of the test images are right "
        f"(loss {metrics['test_loss']:.4f})"
    )


def comparison(metrics: Mapping[str, Any], name: str) -> str:
    """Accuracy of the network called `name` on the test images, and the agreement with it."""
    return (
        f"its {name}: {metrics[f'test_{name}_accuracy']:.2%}, and both predict the same class for "
        f"{metrics['test_agreement']:.2%} of them"
    )
