"""Checks of the arguments of `quantize`, each with a one-line error."""

from __future__ import annotations

import operator
from collections.abc import Container, Iterable
from typing import Any

import numpy as np

from mulfree import runtime
from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.quantization.preprocessing import Pictures
from mulfree.runtime.graph import Input
from mulfree.runtime.rules import rules


def integer(name: str, value: Any, choices: Container[int], requirement: str) -> int:
    """`value` as an int if it is an integer of any type, numpy's too, and one of `choices`."""
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number not in choices:
        raise ConfigError(f"quantize: `{name}` must be {requirement}, got {quoted(value)}")
    return number


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is not one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(choices_message("quantize", name, value, choices))


def check_kind(name: str, value: object, kinds: Any, requirement: str) -> None:
    """Refuse a value of another type."""
    if not isinstance(value, kinds):
        raise ConfigError(f"quantize: `{name}` must be {requirement}, got {quoted(value)}")


def _check_rule(name: str, kind: type, field: str, value: object) -> None:
    rule = rules(kind)[field]
    if not rule.holds(value):
        raise ConfigError(f"quantize: `{name}` must {rule.text}, got {quoted(value)}")


def check_names(name: object, pictures: Pictures | None) -> None:
    """Refuse names and a `resize` that a graph cannot hold."""
    _check_rule("name", runtime.Graph, "name", name)
    if pictures is not None:
        _check_rule("pictures.classes", runtime.Graph, "classes", pictures.classes)
        _check_rule("pictures.resize", Input, "resize", pictures.resize)


def check_pictures(pictures: Pictures, channels: int, side: int) -> None:
    """Refuse pictures that does not fit images of `channels` and larger side `side`."""
    if not len(pictures.mean) == len(pictures.std) == channels:
        raise ConfigError(
            f"quantize: `pictures` must have a mean and std for each of {channels} channels, "
            f"got {len(pictures.mean)} and {len(pictures.std)}"
        )
    if pictures.resize < side:
        raise ConfigError(
            f"quantize: `pictures.resize` must be at least the images' side {side}, got "
            f"{pictures.resize}"
        )


def check_classes(pictures: Pictures, count: int) -> None:
    """Refuse another number of class names than of logits."""
    if pictures.classes is not None and len(pictures.classes) != count:
        raise ConfigError(
            f"quantize: `pictures.classes` must have {count} names, as many as logits, got "
            f"{len(pictures.classes)}"
        )
