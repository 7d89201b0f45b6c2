"""Any classifier with a resolution of its own for every image.

References:
    Dynamic Resolution Network, arXiv 2106.02898.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from mulfree import operators
from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.models.dynamic_resolution import DynamicResolutionNetwork
from mulfree.models.inner_network import InnerNetworkOptions
from mulfree.models.registry import ModelOptions, image_size, register_model, resolved_options

_MAX_SIDE = 4096
_MAX_RESOLUTIONS = 16
_PREDICTOR_SIDE = 128
_NORMS = ("private", "shared")


@dataclass(frozen=True, kw_only=True)
class Config(InnerNetworkOptions):
    """Options of a network of dynamic resolution.

    Attributes:
        network: The classifier, a registered model without a network inside.
        network_options: Its options.
        resolutions: Candidate sides of its images, falling; None for the side `s` it is designed
            for, `3 s / 4` and `s / 2`, as 224, 168 and 112.
        batch_norm: Batch norms of their own for every resolution (private), or the same (shared).
        predictor: The predictor, a registered model too.
        predictor_options: Its options; None for its defaults, and for resnet18 one block a stage.
        predictor_size: Side of its images; None for 128, or the largest resolution below that.
        predictor_width: Its width, times the width of the whole; None for the largest resolution
            over 128, at most 1.
        predictor_operator: conv2d for a predictor that multiplies; None for the operator of the
            whole.
    """

    resolutions: list[int] | None = None
    batch_norm: str = "private"
    predictor: str = "resnet18"
    predictor_options: dict[str, Any] | None = None
    predictor_size: int | None = None
    predictor_width: float | None = None
    predictor_operator: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_norm not in _NORMS:
            raise ConfigError(
                choices_message("create_model", "batch_norm", self.batch_norm, _NORMS)
            )
        if self.predictor_operator not in (None, "conv2d"):
            raise ConfigError(
                "create_model: `predictor_operator` must be conv2d or None, "
                f"got {quoted(self.predictor_operator)}"
            )
        if self.predictor_size is not None and not 1 <= self.predictor_size <= _MAX_SIDE:
            raise ConfigError(
                f"create_model: `predictor_size` must be from 1 to {_MAX_SIDE}, "
                f"got {quoted(self.predictor_size)}"
            )
        self.check_inner("predictor")
        _check_resolutions(self.sides())
        self.chooser()

    def sides(self) -> list[int]:
        """Return the candidate resolutions."""
        if self.resolutions is not None:
            return self.resolutions
        side = image_size(self.network)
        return [side, 3 * side // 4, side // 2]

    def classifier(self) -> tuple[str, ModelOptions]:
        """Return name and options of the network."""
        return self.network, self.inner()

    def chooser(self) -> tuple[str, ModelOptions]:
        """Return name and options of the predictor."""
        sides = self.sides()
        width = self.predictor_width
        if width is None:
            width = min(1.0, sides[0] / _PREDICTOR_SIDE)
        options: dict[str, Any] = {
            "num_classes": len(sides),
            "in_channels": self.in_channels,
            "width": self.width * width,
        }
        if self.predictor == "resnet18":
            options["blocks"] = [1, 1, 1, 1]
        options |= self.predictor_options or {}
        return self.predictor, resolved_options(self.predictor, options)

    def multiplying(self, network: nn.Module) -> list[str]:
        """Names of the layers that multiply with every operator, beside first and last.

        They are the classifier of the predictor and the first layer of the network, and what the
        families of the two leave.
        """
        modules = network.named_modules()
        layers = [name for name, layer in modules if operators.operator_of(layer) is not None]
        predictor = [name for name in layers if name.startswith("predictor.")]
        kept = [predictor[-1], layers[len(predictor)]]
        if self.predictor_operator == "conv2d":
            kept += predictor
        own = self.chooser()[1].multiplying(network.get_submodule("predictor"))
        return [*kept, *(f"predictor.{name}" for name in own), *super().multiplying(network)]


def _check_resolutions(sides: list[int]) -> None:
    valid = 1 <= len(sides) <= _MAX_RESOLUTIONS and all(
        type(side) is int and 1 <= side <= _MAX_SIDE for side in sides
    )
    if not valid or sorted(set(sides), reverse=True) != sides:
        raise ConfigError(
            f"create_model: `resolutions` must be 1 to {_MAX_RESOLUTIONS} falling sides of at "
            f"most {_MAX_SIDE} pixels, got {quoted(sides)}"
        )


@register_model
def dynamic_resolution(options: Config) -> nn.Module:
    """A predictor of the resolution of each image, and a classifier at all resolutions."""
    sides = options.sides()
    size = options.predictor_size
    network = DynamicResolutionNetwork(
        options.chooser(),
        options.classifier(),
        in_channels=options.in_channels,
        resolutions=sides,
        predictor_size=min(sides[0], _PREDICTOR_SIDE) if size is None else size,
        private_norms=options.batch_norm == "private",
    )
    least = getattr(network.network, "minimum_side", 1)
    if sides[-1] < least:
        raise ConfigError(
            f"create_model: `resolutions` must be at least {least} for {options.network}, "
            f"got {quoted(sides)}"
        )
    return network
