"""Options of models, with their checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from types import UnionType
from typing import ClassVar, get_args, get_origin, get_type_hints

from torch import nn

from mulfree.errors import ConfigError, quoted

# Far above any use, low enough that a hostile file cannot request a network of petabytes.
_MAX_COUNT = 1_000_000
_MAX_WIDTH = 64.0
_MAX_DEPTH = 64.0


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of every model; the base of the `Config` of a family with more of them.

    Attributes:
        image_size: Side of the images that the family is designed for.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        norm_logits: Batch normalisation of the logits, as in published adder networks.
        width: Multiplier of all numbers of channels inside the network.
    """

    image_size: ClassVar[int] = 32

    num_classes: int = 10
    in_channels: int = 3
    norm_logits: bool = False
    width: float = 1.0

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for option in fields(self):
            check_type(option.name, getattr(self, option.name), hints[option.name])
        for name in ("num_classes", "in_channels"):
            check_count(name, getattr(self, name))
        if not 0 < self.width <= _MAX_WIDTH:
            raise ConfigError(
                f"create_model: `width` must be above 0 and at most {_MAX_WIDTH:g}, "
                f"got {quoted(self.width)}"
            )

    def scaled(self, channels: int) -> int:
        """`channels` times `width`, rounded, at least 1."""
        return max(1, round(channels * self.width))

    def multiplying(self, network: nn.Module) -> list[str]:
        """Names of layers of `network` that multiply with every operator, beside `keep`."""
        return []


COMMON_OPTIONS = tuple(option.name for option in fields(ModelOptions))
"""Names of the options that every model has."""


@dataclass(frozen=True, kw_only=True)
class ScalableOptions(ModelOptions):
    """Options of a family whose depth can be scaled too.

    Attributes:
        depth: Multiplier of the numbers of blocks of the stages.
        channel_divisor: Numbers of channels are rounded to multiples of it, but never below 90 % of
            the exact number; 1 for the nearest integer.

    References:
        Rounding: arXiv 1905.11946 and its code, `round_filters` and `round_repeats`.
    """

    depth: float = 1.0
    channel_divisor: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("channel_divisor", self.channel_divisor)
        if not 0 < self.depth <= _MAX_DEPTH:
            raise ConfigError(
                f"create_model: `depth` must be above 0 and at most {_MAX_DEPTH:g}, "
                f"got {quoted(self.depth)}"
            )

    def scaled(self, channels: int) -> int:
        """`channels` times `width`, rounded to a multiple of the divisor."""
        if self.channel_divisor == 1:
            return super().scaled(channels)
        exact, divisor = channels * self.width, self.channel_divisor
        rounded = max(divisor, int(exact + divisor / 2) // divisor * divisor)
        return rounded + divisor if rounded < 0.9 * exact else rounded

    def repeated(self, blocks: int) -> int:
        """`blocks` times `depth`, rounded up."""
        return math.ceil(blocks * self.depth)


def check_count(option: str, value: int) -> None:
    """Refuse an unreasonable number of channels, classes or units.

    Raises:
        ConfigError: Below 1 or above a million.
    """
    if not 1 <= value <= _MAX_COUNT:
        raise ConfigError(
            f"create_model: `{option}` must be from 1 to {_MAX_COUNT}, got {quoted(value)}"
        )


def check_type(option: str, value: object, kind: type | UnionType) -> None:
    """Refuse a value of another type; an int counts as a float, a bool as neither.

    The elements of a list are left to the family.
    """
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    accepted = tuple(get_origin(one) or one for one in kinds) + ((int,) if float in kinds else ())
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(
            f"create_model: `{option}` must be of type {getattr(kind, '__name__', kind)}, "
            f"got {quoted(value)}"
        )
