"""Preprocessing of pictures, stored with a quantised network."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

from mulfree.errors import ConfigError, quoted


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Image preprocessing stored with the network.

    Attributes:
        mean: Per channel, of pixels scaled to 0..1; was subtracted.
        std: Per channel; was divided by.
        resize: Side that pictures are resized to before the middle is cut out.
        classes: Names of the logits.

    Raises:
        ConfigError: A field is something else: not finite, a `std` that is not positive, or a side
            that is no integer.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        # Lists, arrays and numpy's numbers become what a graph holds.
        self._become("mean", _floats(self.mean), "finite numbers, one a channel")
        std = _floats(self.std)
        positive = std is not None and all(number > 0 for number in std)
        self._become("std", std if positive else None, "finite positive numbers, one a channel")
        self._become("resize", _side(self.resize), "a positive integer")
        if self.classes is not None:
            self._become("classes", _texts(self.classes), "a sequence of texts, or None")

    def _become(self, name: str, value: Any, requirement: str) -> None:
        if value is None:
            got = quoted(getattr(self, name))
            raise ConfigError(f"Pictures: `{name}` must be {requirement}, got {got}")
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
