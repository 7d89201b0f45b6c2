"""Image preprocessing, stored with a quantised network."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

from mulfree.errors import ConfigError, quoted


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Image preprocessing stored with the network.

    Attributes:
        mean: Mean per channel of pixels scaled to 0..1.
        std: Standard deviation per channel, likewise.
        resize: Side that images are resized to before the centre crop.
        classes: Names of the logits.

    Raises:
        ConfigError: A number is not finite, a `std` is not positive, or `resize` is not an integer.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        # Convert lists, arrays and numpy's numbers to tuples of Python's.
        self._convert("mean", _floats(self.mean), "finite numbers, one a channel")
        std = _floats(self.std)
        positive = std is not None and all(number > 0 for number in std)
        self._convert("std", std if positive else None, "finite positive numbers, one a channel")
        self._convert("resize", _side(self.resize), "a positive integer")
        if self.classes is not None:
            self._convert("classes", _texts(self.classes), "a sequence of texts, or None")

    def _convert(self, name: str, value: Any, requirement: str) -> None:
        if value is None:
            got = quoted(getattr(self, name))
            raise ConfigError(f"Preprocessing: `{name}` must be {requirement}, got {got}")
        object.__setattr__(self, name, value)


def _floats(values: Any) -> tuple[float, ...] | None:
    try:
        numbers = tuple(map(float, values))
    except (TypeError, ValueError, OverflowError):
        return None
    finite = all(map(math.isfinite, numbers))
    return numbers if finite and numbers and not isinstance(values, str) else None


def _side(value: Any) -> int | None:
    try:
        side = operator.index(value)
    except TypeError:
        return None
    return side if side > 0 and not isinstance(value, bool) else None


def _texts(values: Any) -> tuple[str, ...] | None:
    try:
        texts = tuple(values)
    except TypeError:
        return None
    return texts if all(isinstance(t, str) for t in texts) and not isinstance(values, str) else None
