"""Checks of the fields of a graph, declared beside each as `Annotated[type, FieldCheck]`."""

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
"""Characters of the longest name given by a person, such as the name of a class."""

# Control characters, surrogates, separators of lines and paragraphs.
_NOT_IN_LABELS = frozenset({"Cc", "Cs", "Zl", "Zp"})


class FieldCheck:
    """Requirement of a field: `holds` decides, `text` completes the error message "must ..."."""

    def __init__(self, text: str) -> None:
        self.text = text

    def holds(self, value: object) -> bool:
        """Return True for a valid value."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Stored:
    """Name of a field in files, where it differs from the name in Python."""

    name: str


@dataclasses.dataclass(frozen=True)
class Since:
    """First version of files with a field, which is left out where it has its default."""

    version: int


class Text(FieldCheck):
    """A name; None as well if `optional`."""

    def __init__(self, *, optional: bool = False) -> None:
        none = " or None" if optional else ""
        super().__init__(f"be a printable text of 1..{MAX_NAME} characters{none}")
        self.optional = optional

    def holds(self, value: object) -> bool:
        """Return True for a short text on one line."""
        if value is None:
            return self.optional
        return isinstance(value, str) and 1 <= len(value) <= MAX_NAME and value.isprintable()


class Texts(FieldCheck):
    """Names."""

    def __init__(self) -> None:
        super().__init__(f"be a tuple of printable texts of 1..{MAX_NAME} characters")

    def holds(self, value: object) -> bool:
        """Return True for a tuple of names."""
        return isinstance(value, tuple) and all(map(Text().holds, value))


class Choice(FieldCheck):
    """One of some texts."""

    def __init__(self, *choices: str) -> None:
        super().__init__(f"be one of {', '.join(choices)}")
        self.choices = choices

    def holds(self, value: object) -> bool:
        """Return True for one of the texts."""
        return isinstance(value, str) and value in self.choices


class Labels(FieldCheck):
    """Names given by people, in any script and with any spaces; or None."""

    def __init__(self) -> None:
        super().__init__(
            f"be a tuple of texts of 1..{MAX_LABEL} characters, none of them a control character, "
            "or None"
        )

    def holds(self, value: object) -> bool:
        """Return True for None or a tuple of such names."""
        return value is None or (isinstance(value, tuple) and all(map(self._label, value)))

    @staticmethod
    def _label(value: object) -> bool:
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_LABEL:
            return False
        return value.isprintable() or _NOT_IN_LABELS.isdisjoint(map(unicodedata.category, value))


class Integer(FieldCheck):
    """A Python int; neither a numpy integer nor a bool."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__(f"be an int in {low}..{high}")
        self.low, self.high = low, high

    def holds(self, value: object) -> bool:
        """Return True for a value in the range."""
        return type(value) is int and self.low <= value <= self.high


class Integers(FieldCheck):
    """A tuple of Python ints."""

    def __init__(self, count: int, low: int, high: int) -> None:
        super().__init__(f"be a tuple of {count} ints in {low}..{high}")
        self.count, self.item = count, Integer(low, high)

    def holds(self, value: object) -> bool:
        """Return True for `count` values in the range."""
        if not isinstance(value, tuple) or len(value) != self.count:
            return False
        return all(map(self.item.holds, value))


class Scale(FieldCheck):
    """A quantisation scale: used as float32, in which it is a normal positive number."""

    def __init__(self) -> None:
        super().__init__("be a float in 1e-30..1e30")

    def holds(self, value: object) -> bool:
        """Return True for a value in the range."""
        return type(value) is float and 1e-30 <= value <= 1e30


class Floats(FieldCheck):
    """A tuple of numbers."""

    def __init__(self) -> None:
        super().__init__("be a tuple of finite floats")

    def holds(self, value: object) -> bool:
        """Return True for finite floats."""
        if not isinstance(value, tuple):
            return False
        return all(type(item) is float and math.isfinite(item) for item in value)


class Tensor(FieldCheck):
    """An array of a fixed dtype and rank."""

    def __init__(self, dtype: str, rank: int) -> None:
        super().__init__(f"be a contiguous, aligned, finite {dtype} array of rank {rank}")
        self.dtype, self.rank = np.dtype(dtype), rank

    def holds(self, value: object) -> bool:
        """Return True for such an array."""
        if not isinstance(value, np.ndarray):
            return False
        if not (value.flags.c_contiguous and value.flags.aligned):
            return False
        if value.dtype != self.dtype or value.ndim != self.rank:
            return False
        return self.dtype.kind != "f" or bool(np.isfinite(value).all())


def field_checks(kind: type) -> Mapping[str, FieldCheck]:
    """Return the checks of the fields of a dataclass by name; a field without one is left out."""
    return _field_checks(kind)


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
    # Evaluated once a class, not for every node of a file.
    return get_type_hints(kind, include_extras=True)


@functools.cache
def _field_checks(kind: Any) -> Mapping[str, FieldCheck]:
    hints = _hints(kind)
    return {
        item.name: check
        for item in dataclasses.fields(kind)
        for check in get_args(hints[item.name])[1:]
        if isinstance(check, FieldCheck)
    }


def stored_fields(kind: type) -> Mapping[str, str]:
    """Return the names in files of all checked fields but tensors, by their names in Python."""
    hints = _hints(kind)
    stored = {
        name: next((item.name for item in get_args(hint) if isinstance(item, Stored)), name)
        for name, hint in hints.items()
    }
    checks = field_checks(kind).items()
    return {name: stored[name] for name, check in checks if not isinstance(check, Tensor)}


def later_fields(kind: type) -> Mapping[str, int]:
    """Return the first version of files that have a field, by name, for fields marked `Since`."""
    hints = _hints(kind)
    return {
        name: item.version
        for name, hint in hints.items()
        for item in get_args(hint)
        if isinstance(item, Since)
    }


def tensors(thing: object) -> dict[str, NDArray[Any]]:
    """Return the arrays among the fields of a dataclass by name."""
    return {
        name: getattr(thing, name)
        for name, check in field_checks(type(thing)).items()
        if isinstance(check, Tensor)
    }


def check_fields(what: str, thing: object) -> None:
    """Check all fields of a dataclass.

    Raises:
        ArtifactError: A field is invalid.
    """
    for name, check in field_checks(type(thing)).items():
        value = getattr(thing, name)
        if not check.holds(value):
            raise artifact_error(f"{what}.{name}", check.text, value)


def artifact_error(what: str, requirement: str, value: object) -> ArtifactError:
    """Return the error of a graph in which `what` is invalid."""
    shown = reprlib.repr(value)
    if isinstance(value, np.ndarray):
        shown = f"{value.dtype}{list(value.shape)}"
    return ArtifactError(f"Graph: `{what}` must {requirement}, got {shown}")
