"""What a field of a graph must be, told beside the field as `Annotated[type, Rule]`."""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
import unicodedata
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import ArtifactError

MAX_NAME = 200
MAX_LABEL = 1024
"""Characters of the longest name that a person has given, such as that of a class."""

# Control characters, surrogates, separators of lines and paragraphs.
_NOT_IN_LABELS = frozenset({"Cc", "Cs", "Zl", "Zp"})


class Rule:
    """What a field must be: `holds` decides, `text` says so in an error message."""

    def __init__(self, text: str) -> None:
        self.text = text

    def holds(self, value: object) -> bool:
        """Whether the field may have the value."""
        raise NotImplementedError


class Text(Rule):
    """A name; None as well if `optional`."""

    def __init__(self, *, optional: bool = False) -> None:
        none = " or None" if optional else ""
        super().__init__(f"be a printable text of 1..{MAX_NAME} characters{none}")
        self.optional = optional

    def holds(self, value: object) -> bool:
        """Whether it is short and fits on a line."""
        if value is None:
            return self.optional
        return isinstance(value, str) and 1 <= len(value) <= MAX_NAME and value.isprintable()


class Texts(Rule):
    """Names."""

    def __init__(self) -> None:
        super().__init__(f"be a tuple of printable texts of 1..{MAX_NAME} characters")

    def holds(self, value: object) -> bool:
        """Whether it is a tuple of names."""
        return isinstance(value, tuple) and all(map(Text().holds, value))


class Labels(Rule):
    """Names that people have given, in any script and with any spaces; or None."""

    def __init__(self) -> None:
        super().__init__(
            f"be a tuple of texts of 1..{MAX_LABEL} characters, none of them a control character, "
            "or None"
        )

    def holds(self, value: object) -> bool:
        """Whether it is None or a tuple of such names."""
        return value is None or (isinstance(value, tuple) and all(map(self._label, value)))

    @staticmethod
    def _label(value: object) -> bool:
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_LABEL:
            return False
        return value.isprintable() or _NOT_IN_LABELS.isdisjoint(map(unicodedata.category, value))


class Integer(Rule):
    """A whole number; not one of numpy's, nor a truth value."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__(f"be an int in {low}..{high}")
        self.low, self.high = low, high

    def holds(self, value: object) -> bool:
        """Whether it lies in the range."""
        return type(value) is int and self.low <= value <= self.high


class Integers(Rule):
    """A tuple of whole numbers."""

    def __init__(self, count: int, low: int, high: int) -> None:
        super().__init__(f"be a tuple of {count} ints in {low}..{high}")
        self.count, self.item = count, Integer(low, high)

    def holds(self, value: object) -> bool:
        """Whether there are so many, all in the range."""
        if not isinstance(value, tuple) or len(value) != self.count:
            return False
        return all(map(self.item.holds, value))


class Scale(Rule):
    """A step size: used as float32, in which it is an ordinary positive number."""

    def __init__(self) -> None:
        super().__init__("be a float in 1e-30..1e30")

    def holds(self, value: object) -> bool:
        """Whether it lies in the range."""
        return type(value) is float and 1e-30 <= value <= 1e30


class Floats(Rule):
    """A tuple of numbers."""

    def __init__(self) -> None:
        super().__init__("be a tuple of finite floats")

    def holds(self, value: object) -> bool:
        """Whether all are finite."""
        if not isinstance(value, tuple):
            return False
        return all(type(item) is float and math.isfinite(item) for item in value)


class Tensor(Rule):
    """An array of a fixed dtype and rank."""

    def __init__(self, dtype: str, rank: int) -> None:
        super().__init__(f"be a contiguous, aligned, finite {dtype} array of rank {rank}")
        self.dtype, self.rank = np.dtype(dtype), rank

    def holds(self, value: object) -> bool:
        """Whether `value` is such an array."""
        if not isinstance(value, np.ndarray):
            return False
        if not (value.flags.c_contiguous and value.flags.aligned):
            return False
        if value.dtype != self.dtype or value.ndim != self.rank:
            return False
        return self.dtype.kind != "f" or bool(np.isfinite(value).all())


def rules(kind: type) -> Mapping[str, Rule]:
    """The rule of every field of a dataclass that has one, by the field's name."""
    return _rules(kind)


@functools.cache
def _rules(kind: Any) -> Mapping[str, Rule]:
    hints = get_type_hints(kind, include_extras=True)
    return {
        item.name: rule
        for item in dataclasses.fields(kind)
        for rule in get_args(hints[item.name])[1:]
        if isinstance(rule, Rule)
    }


def tensors(thing: object) -> dict[str, NDArray[Any]]:
    """The arrays among the fields of a dataclass, by their names."""
    return {
        name: getattr(thing, name)
        for name, rule in rules(type(thing)).items()
        if isinstance(rule, Tensor)
    }


def check_fields(what: str, thing: object) -> None:
    """Refuses a thing of which a field breaks its rule.

    Raises:
        ArtifactError: One does.
    """
    for name, rule in rules(type(thing)).items():
        value = getattr(thing, name)
        if not rule.holds(value):
            raise refusal(f"{what}.{name}", rule.text, value)


def refusal(what: str, requirement: str, value: object) -> ArtifactError:
    """The error of a graph in which `what` is not as required."""
    shown = reprlib.repr(value)
    if isinstance(value, np.ndarray):
        shown = f"{value.dtype}{list(value.shape)}"
    return ArtifactError(f"Graph: `{what}` must {requirement}, got {shown}")
