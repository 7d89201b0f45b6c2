"""Options of models around a registered network: depths, exits and resolutions of one network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from mulfree.errors import ConfigError, quoted
from mulfree.models.options import COMMON_OPTIONS, ModelOptions
from mulfree.models.registry import build_network, model_options, resolved_options
from mulfree.models.staged import StagedNetwork


@dataclass(frozen=True, kw_only=True)
class InnerNetworkOptions(ModelOptions):
    """Options of a model around another; the base of the `Config` of such a family.

    The model has the network inside as its submodule `network`.

    Attributes:
        network: Registered name of the network inside, which has none inside itself.
        network_options: Its options, without the options of every model, which the whole has;
            None for its defaults.
    """

    network: str = "resnet20"
    network_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_inner("network")
        self.inner()

    def check_inner(self, name: str) -> None:
        """Refuse a network inside that has another inside, or that takes options of the whole.

        Args:
            name: Option with the registered name; `<name>_options` holds the options.

        Raises:
            ConfigError: It does, or no model has this name.
        """
        model, options = getattr(self, name), f"{name}_options"
        if "network" in model_options(model):
            raise ConfigError(
                f"create_model: `{name}` must be a model without a network inside, "
                f"got {quoted(model)}"
            )
        for option in getattr(self, options) or {}:
            if option in COMMON_OPTIONS:
                raise ConfigError(
                    f"create_model: `{options}` must leave the options "
                    f"{', '.join(COMMON_OPTIONS)} to the whole, got {quoted(option)}"
                )

    def inner(self, name: str | None = None, **changed: Any) -> ModelOptions:
        """Return the options of the network inside.

        Args:
            name: Another model of the same options; None for `network`.
            **changed: Options that differ from `network_options`.

        Raises:
            ConfigError: Unknown model or option, or an invalid value.
        """
        common = {option: getattr(self, option) for option in COMMON_OPTIONS}
        options = {**common, **(self.network_options or {}), **changed}
        return resolved_options(name or self.network, options)

    def build_staged(self, name: str | None = None, **changed: Any) -> StagedNetwork:
        """Build the network inside, which must be one of stages; arguments as of `inner`.

        Raises:
            ConfigError: It has no stages; or as `inner`.
        """
        name = name or self.network
        network = build_network(name, self.inner(name, **changed))
        if not isinstance(network, StagedNetwork):
            raise ConfigError(
                "create_model: `network` must be a network of stages, as the residual, VGG and "
                f"mobile networks are, got {quoted(name)}"
            )
        return network

    def multiplying(self, network: nn.Module) -> list[str]:
        """Names of layers that multiply with every operator, as in the network inside."""
        own = self.inner().multiplying(network.get_submodule("network"))
        return [f"network.{name}" for name in own]
