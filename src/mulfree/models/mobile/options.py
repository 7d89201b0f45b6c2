"""Options of the mobile families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.models.registry import ScalableOptions

PLACEMENTS = {
    "all": ("expand", "depthwise", "project", "head"),
    "pointwise": ("expand", "project", "head"),
    "expansion": ("expand",),
    "depthwise": ("depthwise",),
    "projection": ("project",),
}
"""Layers that the operator replaces, by name of the placement."""

_MAX_EPS = 1.0


@dataclass(frozen=True, kw_only=True)
class MobileOptions(ScalableOptions):
    """Options of networks of inverted residuals.

    Attributes:
        dropout: Probability of dropping a feature before the classifier.
        stochastic_depth: Probability of skipping the last block, in training; block i of n has
            i / n times it.
        bn_eps: Number added to the variances of batch norm.
        bn_momentum: Weight of a batch in the running statistics of batch norm.
        same_padding: Padding "SAME" of TensorFlow: output `ceil(size / stride)`, an odd total has
            the larger half at the right and bottom. Otherwise `kernel_size // 2` on every side.
        placement: Layers that the operator replaces: "all" (expansion, depthwise, projection and
            head), "pointwise" (all but depthwise), "expansion", "depthwise" or "projection".
            Squeeze-and-excitation always multiplies.
    """

    image_size: ClassVar[int] = 224

    channel_divisor: int = 8
    dropout: float = 0.2
    stochastic_depth: float = 0.0
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    same_padding: bool = False
    placement: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dropout", "stochastic_depth"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"create_model: `{name}` must be from 0 to below 1, "
                    f"got {quoted(getattr(self, name))}"
                )
        for name, largest in (("bn_eps", _MAX_EPS), ("bn_momentum", 1.0)):
            if not 0 < getattr(self, name) <= largest:
                raise ConfigError(
                    f"create_model: `{name}` must be above 0 and at most {largest:g}, "
                    f"got {quoted(getattr(self, name))}"
                )
        if self.placement not in PLACEMENTS:
            raise ConfigError(
                choices_message("create_model", "placement", self.placement, PLACEMENTS)
            )

    def multiplying(self, network: nn.Module) -> list[str]:
        """Names of the convolutions that the placement leaves out."""
        replaced = tuple(f"{layer}.conv" for layer in PLACEMENTS[self.placement])
        return [
            name
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d) and not name.endswith(replaced)
        ]
