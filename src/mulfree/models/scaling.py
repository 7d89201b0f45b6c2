"""Compound scaling: depth, width and resolution of a network grown by one coefficient.

References:
    EfficientNet, arXiv 1905.11946, section 3.3 and equation 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mulfree.errors import ConfigError, quoted
from mulfree.models.registry import create_model, image_size, model_options

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
"""Ratios of depth, width and resolution that the paper found for EfficientNet-B0."""

CHANNEL_DIVISOR = 8
"""Divisor of the numbers of channels of a scaled network, as in the paper's code."""

MAX_PHI = 20.0
MAX_RATIO = 4.0
_MAX_SIDE = 65_536

MULTIPLIERS = ("depth", "width", "channel_divisor")
"""Options of the families that can be scaled."""


@dataclass(frozen=True, kw_only=True)
class ScaledModel:
    """A network of a scaled size, before it is created.

    Attributes:
        name: Name of the model.
        options: Options of `create_model`; depth, width and channel divisor among them.
        image_size: Side of its images.
    """

    name: str
    options: Mapping[str, Any]
    image_size: int

    @property
    def depth(self) -> float:
        """Multiplier of the numbers of blocks."""
        return float(self.options["depth"])

    @property
    def width(self) -> float:
        """Multiplier of the numbers of channels."""
        return float(self.options["width"])

    def create(self, **options: Any) -> nn.Module:
        """Create the network, randomly initialised.

        Args:
            **options: Further options of `create_model`.

        Raises:
            ConfigError: An option is unknown or has an invalid value.
        """
        return create_model(self.name, **{**self.options, **options})


def is_scalable(name: str) -> bool:
    """Return whether a model has options for depth, width and the rounding of channels.

    Raises:
        ConfigError: No model has this name.
    """
    return set(MULTIPLIERS) <= model_options(name).keys()


def scale(
    name: str,
    phi: float,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
    *,
    base_size: int | None = None,
    **options: Any,
) -> ScaledModel:
    """Scale a network: depth x alpha^phi, width x beta^phi, resolution x gamma^phi.

    With `alpha * beta**2 * gamma**2` near 2 the operations grow as 2^phi. Repeated blocks are
    rounded up and channels to multiples of `channel_divisor`, but never below 90 % of the exact
    number, as in the paper's code. The side of the images is rounded to the nearest even number;
    the sides in the paper's table (260 for 257.6, 380) are no formula's.

    Args:
        name: One of `list_models()`, of a family with an option `depth`.
        phi: Compound coefficient, from 0 to 20; 0 returns the network itself.
        alpha: Ratio of the depth, from 1 to 4.
        beta: Ratio of the width, from 1 to 4.
        gamma: Ratio of the resolution, from 1 to 4.
        base_size: Side of the images at phi = 0; by default `image_size(name)`.
        **options: Options of `create_model`; `depth` and `width` belong to phi = 0, by default
            the model's own, and `channel_divisor` is 8 by default.

    Raises:
        ConfigError: A number is out of range, or the network cannot be scaled.

    References:
        arXiv 1905.11946, equation 3.
    """
    _check("phi", phi, 0.0, MAX_PHI)
    for ratio, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        _check(ratio, value, 1.0, MAX_RATIO)
    if not is_scalable(name):
        raise ConfigError(
            f"scale: `name` must be a network with the options depth and width, got {name}"
        )
    defaults = model_options(name)
    divisor = max(CHANNEL_DIVISOR, defaults["channel_divisor"])
    base = {
        "depth": defaults["depth"],
        "width": defaults["width"],
        "channel_divisor": divisor,
        **options,
    }
    side = image_size(name) if base_size is None else base_size
    if type(side) is not int or not 1 <= side <= _MAX_SIDE:
        raise ConfigError(
            f"scale: `base_size` must be an integer from 1 to {_MAX_SIDE}, got {quoted(side)}"
        )
    for option, growth in (("depth", alpha**phi), ("width", beta**phi)):
        _check(option, base[option], 0.0, math.inf)
        base[option] *= growth
    if gamma**phi > 1:
        side = 2 * round(side * gamma**phi / 2)
        _check("resolution", side, 1, _MAX_SIDE)
    return ScaledModel(name=name, options=base, image_size=side)


def _check(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ConfigError(f"scale: `{name}` must be a number {bounds}, got {quoted(value)}")
