"""Early exit: thresholds of a graph with several outputs, and the confidence that they bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.nodes.fields import Choice, Floats

CONFIDENCES = ("probability", "entropy")
"""Measures of confidence."""


@dataclass(frozen=True, kw_only=True)
class Exits:
    """When an image leaves: at the first output whose confidence reaches its threshold.

    Attributes:
        thresholds: Least confidence at every output but the last; above 1 no image leaves.
        confidence: Measure of confidence, see `confidence`.
    """

    thresholds: Annotated[tuple[float, ...], Floats()]
    confidence: Annotated[str, Choice(*CONFIDENCES)] = CONFIDENCES[0]


def confidence(logits: NDArray[np.float32], kind: str) -> NDArray[np.float64]:
    r"""Confidence of a classifier in its answer, from 0 to 1.

    .. math::
        \max_c p_c = 1 \Big/ \sum_c e^{z_c - z_{max}} \quad \text{or} \quad
        1 + \sum_c p_c \ln p_c \, / \ln C

    of the probabilities :math:`p = softmax(z)` of :math:`C` classes, in float64 and summed up in
    the order of the classes: native programs give the same bits.

    Args:
        logits: `[N, C]`.
        kind: "probability" or "entropy".

    Returns:
        `[N]`; NaN where a logit is not finite.
    """
    return np.array([_of_one(row, kind) for row in logits.tolist()], np.float64)


def _of_one(logits: list[float], kind: str) -> float:
    if not all(map(math.isfinite, logits)):
        return math.nan
    largest = max(logits)
    total = weighted = 0.0
    for logit in logits:
        difference = logit - largest
        power = math.exp(difference)
        total += power
        weighted += difference * power
    if kind == "probability":
        return 1 / total
    if len(logits) == 1:
        return 1.0
    return 1 - (math.log(total) - weighted / total) / math.log(len(logits))


def check_confidence(function: str, kind: object) -> None:
    """Refuse a measure of confidence that does not exist.

    Raises:
        ConfigError: There is no such measure.
    """
    if kind not in CONFIDENCES:
        raise ConfigError(choices_message(function, "confidence", kind, CONFIDENCES))


def check_thresholds(
    function: str, thresholds: float | Sequence[float], count: int
) -> tuple[float, ...]:
    """Return one threshold for each of `count` exits.

    Raises:
        ConfigError: Not one number, or as many as exits, or one that is no number from 0.
    """
    given: list[Any] = [thresholds] * count if _is_number(thresholds) else list(thresholds)  # type: ignore[arg-type]
    if len(given) != count or not all(_is_number(number) and number >= 0 for number in given):
        raise ConfigError(
            f"{function}: `thresholds` must be one number of at least 0, or {count}, one for each "
            f"exit but the last, got {quoted(thresholds)}"
        )
    return tuple(map(float, given))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
