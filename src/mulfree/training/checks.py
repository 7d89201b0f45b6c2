"""Checks of the values in a configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mulfree.errors import ConfigError, choices_message, quoted


def require(function: str, arg: str, value: float, holds: bool, requirement: str) -> None:
    """Raise a ConfigError unless the requirement on the number `value` holds and it is finite."""
    # Integers are finite, also where they overflow a float.
    if not isinstance(value, int) and not math.isfinite(value):
        requirement = "be finite"
    elif holds:
        return
    raise ConfigError(f"{function}: `{arg}` must {requirement}, got {quoted(value)}")


def require_count(function: str, arg: str, value: int, most: int = 2**31 - 1) -> None:
    """Raise a ConfigError unless `value` lies in 1 to `most`."""
    require(function, arg, value, value >= 1, "be at least 1")
    require(function, arg, value, value <= most, f"be at most {most}")


def require_choice(function: str, arg: str, value: object, choices: Iterable[str]) -> None:
    """Raise a ConfigError unless `value` is one of `choices`."""
    if value not in (listed := tuple(choices)):
        raise ConfigError(choices_message(function, arg, value, listed))
