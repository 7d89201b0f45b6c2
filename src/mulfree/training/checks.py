"""Checks of the values in a configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mulfree.errors import ConfigError, choices_message


def require(function: str, arg: str, value: float, holds: bool, requirement: str) -> None:
    """Raises a ConfigError unless the requirement on the number `value` holds and it is finite."""
    if not math.isfinite(value):
        requirement = "be finite"
    elif holds:
        return
    raise ConfigError(f"{function}: `{arg}` must {requirement}, got {value}")


def require_choice(function: str, arg: str, value: object, choices: Iterable[str]) -> None:
    """Raises a ConfigError unless `value` is one of `choices`."""
    if value not in (listed := tuple(choices)):
        raise ConfigError(choices_message(function, arg, value, listed))
