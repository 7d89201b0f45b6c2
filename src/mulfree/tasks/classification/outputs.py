"""Outputs of a classifier's graph: logits, decoded as probabilities of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("logits",)


def decode(
    logits: NDArray[np.float32], names: Sequence[str], count: int
) -> list[tuple[str, float]]:
    """Most probable classes of an image, best first, with their probabilities.

    Args:
        logits: `[num_classes]`.
        names: Names of the classes; empty for their numbers.
        count: Number of classes to return.
    """
    # Clipped, as logits may overflow float32.
    finite = np.clip(logits.astype(np.float64), -1e39, 1e39)
    powers: NDArray[Any] = np.exp(finite - finite.max())
    probabilities = powers / powers.sum()
    names = names or tuple(map(str, range(len(logits))))
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(names[index], float(probabilities[index])) for index in order]
