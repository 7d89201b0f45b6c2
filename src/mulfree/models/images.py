"""Specification of the images that a network was trained on."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from mulfree.errors import ConfigError, quoted

# Above any use; a hostile file cannot request an image of gigabytes.
_MAX_SIDE = 65_536
_MAX_VALUES = 2**26


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """Size, normalisation and classes of the images that a network was trained on.

    Attributes:
        size: C, H, W of the network's input.
        mean: Per channel, of pixels scaled to 0..1.
        std: Per channel, likewise.
        resize: Length of the shorter side of an image before the centre crop.
        classes: Class names in the order of the logits.
        data: Name of the data set.

    Raises:
        ConfigError: A value is not valid.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    classes: tuple[str, ...]
    data: str

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std", "classes"):
            if not isinstance(getattr(self, name), tuple):
                self._refuse(name, "be a tuple")
        if len(self.size) != 3 or not all(
            type(side) is int and 1 <= side <= _MAX_SIDE for side in self.size
        ):
            self._refuse("size", f"be three whole numbers from 1 to {_MAX_SIDE}")
        if math.prod(self.size) > _MAX_VALUES:
            self._refuse("size", f"be of at most {_MAX_VALUES} values")
        if type(self.resize) is not int or not max(self.size[1:]) <= self.resize <= _MAX_SIDE:
            self._refuse("resize", f"be a whole number from {max(self.size[1:])} to {_MAX_SIDE}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.size[0] or not all(map(_is_finite, values)):
                self._refuse(name, f"be {self.size[0]} finite numbers, one per channel")
        if min(self.std) <= 0:
            self._refuse("std", "be above 0")
        if not all(isinstance(name, str) for name in self.classes):
            self._refuse("classes", "be names")
        if not isinstance(self.data, str):
            self._refuse("data", "be a name")

    def _refuse(self, name: str, requirement: str) -> None:
        value = quoted(getattr(self, name))
        raise ConfigError(f"ImageSpec: `{name}` must {requirement}, got {value}")

    def resized(self, side: int, classes: tuple[str, ...] | None = None) -> ImageSpec:
        """Return the record of the same images as squares of another side.

        Args:
            side: Height and width.
            classes: Names of other logits; None for the same.
        """
        resize = max(side, round(self.resize * side / max(self.size[1:])))
        classes = self.classes if classes is None else classes
        return replace(self, size=(self.size[0], side, side), resize=resize, classes=classes)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ImageSpec:
        """Inverse of `dataclasses.asdict`, also through JSON.

        Raises:
            ConfigError: A value is not valid, or a key is missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(content, Mapping) or set(content) != names:
            raise ConfigError(
                f"ImageSpec: `content` must have the keys {', '.join(sorted(names))}, "
                f"got {quoted(content)}"
            )
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content.items()
        }
        return cls(**values)


def _is_finite(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    # Also of an integer that no float can hold.
    return abs(value) <= sys.float_info.max
