"""Checks of the arguments of `quantize`, each with a one-line error."""

from __future__ import annotations

import operator
from collections.abc import Container, Iterable
from typing import Any

import numpy as np

from mulfree import runtime
from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.nodes.fields import field_checks
from mulfree.quantization.preprocessing import Preprocessing
from mulfree.runtime.graph import Input


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
    rule = field_checks(kind)[field]
    if not rule.holds(value):
        raise ConfigError(f"quantize: `{name}` must {rule.text}, got {quoted(value)}")


def check_names(name: object, preprocessing: Preprocessing | None) -> None:
    """Refuse names and a `resize` that a graph cannot hold."""
    _check_rule("name", runtime.Graph, "name", name)
    if preprocessing is not None:
        _check_rule("preprocessing.classes", runtime.Graph, "classes", preprocessing.classes)
        _check_rule("preprocessing.resize", Input, "resize", preprocessing.resize)


def check_preprocessing(preprocessing: Preprocessing, channels: int, side: int) -> None:
    """Refuse preprocessing that does not fit images of `channels` and larger side `side`."""
    if not len(preprocessing.mean) == len(preprocessing.std) == channels:
        raise ConfigError(
            f"quantize: `preprocessing` must have a mean and std for each of {channels} channels, "
            f"got {len(preprocessing.mean)} and {len(preprocessing.std)}"
        )
    if preprocessing.resize < side:
        raise ConfigError(
            f"quantize: `preprocessing.resize` must be at least the images' side {side}, got "
            f"{preprocessing.resize}"
        )


def check_classes(preprocessing: Preprocessing, count: int) -> None:
    """Refuse another number of class names than of logits."""
    if preprocessing.classes is not None and len(preprocessing.classes) != count:
        raise ConfigError(
            f"quantize: `preprocessing.classes` must have {count} names, as many as logits, got "
            f"{len(preprocessing.classes)}"
        )
