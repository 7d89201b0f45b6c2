"""Return whether a network goes on calling its layers when they are replaced: a run before and after."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from mulfree.errors import ConfigError, ShapeError
from mulfree.models.references import storage_of
from mulfree.models.replaceable import ReplaceableLayer
from mulfree.models.zero_run import ARITHMETIC, Observer, tensors_in, zero_run

# Operations of torch's dispatcher that make next to nothing, or a constant, of a large negative
# number, and those behind which it is one still.
_ACTIVATION = re.compile(
    r"celu|clamp|clamp_min|elu|gelu|hardsigmoid|hardswish|hardtanh|mish|relu|selu|sigmoid|silu"
    r"|softplus|tanh|threshold"
)
_SIGN_KEEPING = re.compile(
    # Sums, pooling, resizing, padding, dropout.
    r"add|sum|mean|amax|amin|max|min|.*(max|avg)_pool.*|upsample_.*|(.*_)?pad(_nd|\d?d)|.*dropout"
    # The same numbers in another order, shape, or place.
    r"|_to_copy|alias|as_strided|cat|.*channel_shuffle|clone|contiguous|detach|expand|flip|gather"
    r"|index|index_select|permute|pixel_shuffle|reshape|roll|select|slice|split.*|squeeze|stack|t"
    r"|transpose|unbind|unsqueeze|_?(unsafe_)?view"
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The run of a network before layers are replaced, and what is checked by another one.

    Attributes:
        layers: The layers to replace.
        input_size: Shape of one input without the batch.
        uses: How the network used the layers.
    """

    layers: Sequence[ReplaceableLayer]
    input_size: Sequence[int]
    uses: Uses

    @classmethod
    def of(
        cls, network: nn.Module, layers: Sequence[ReplaceableLayer], input_size: Sequence[int]
    ) -> Self:
        """Run `network` before its `layers` are replaced.

        Raises:
            ConfigError: It computes with the parameters of a layer without calling it.
            ShapeError: It does not take the input.
        """
        modules = [layer.module for layer in layers]
        uses = zero_run("convert", network, input_size, lambda: Uses(modules))
        for layer in layers:
            function = uses.multiplied.get(layer.module)
            if layer.module not in uses.called:
                function = uses.read.get(layer.module)
            if function is not None:
                raise ConfigError(
                    "convert: `model` must call the layers to change as modules, got "
                    f"{layer.name}, whose parameters are given to {function} instead; keep it"
                )
        return cls(layers=layers, input_size=input_size, uses=uses)

    def again(
        self,
        network: nn.Module,
        new: Mapping[nn.Module, nn.Module],
        adders: Iterable[nn.Module],
    ) -> set[nn.Module]:
        """Run the network with the new layers.

        Args:
            network: The network after the change.
            new: The new layer of each old one.
            adders: The layers of which outputs are never positive.

        Returns:
            Those of `adders` behind which an activation comes before a normalisation.

        Raises:
            ConfigError: It does not run, still uses an old layer, or does not use a new one.
        """
        watched = [*new, *new.values()]
        try:
            uses = zero_run("convert", network, self.input_size, lambda: Uses(watched, adders))
        except ShapeError as error:
            raise ConfigError(
                "convert: `model` must run with other layers in the place of the old ones, got "
                f"{error.__cause__}; keep those that it is about"
            ) from error
        for layer in self.layers:
            if layer.module in uses.read:
                raise ConfigError(
                    "convert: `model` must use the layers that are registered, got an old "
                    f"{layer.name} that is still used after the change; keep it"
                )
            if layer.module in self.uses.called and new[layer.module] not in uses.called:
                raise ConfigError(
                    "convert: `model` must call the new layers where it called the old ones, got "
                    f"{layer.name}, which is no longer called; keep it"
                )
        return uses.zeroed


class Uses(Observer):
    """How one forward pass uses layers.

    Args:
        layers: The layers to look at.
        adders: Those of them of which outputs are never positive.

    Attributes:
        called: Modules that were called.
        read: Layers whose parameters other modules computed with, and the first function.
        multiplied: Those of them of which that was a convolution or product of tensors.
        zeroed: Layers whose output went into an activation without a normalisation between.
    """

    def __init__(self, layers: Iterable[nn.Module], adders: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.called: set[nn.Module] = set()
        self.read: dict[nn.Module, str] = {}
        self.multiplied: dict[nn.Module, str] = {}
        self.zeroed: set[nn.Module] = set()
        self._layers = list(layers)
        self._adders = set(adders)
        self._owners: dict[int, nn.Module] = {}
        self._behind: dict[int, set[nn.Module]] = {}
        # Whose identities are keys above.
        self._alive: list[Tensor] = []

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Records the call, and the outputs of adder layers."""
        self.called.add(module)
        if module in self._adders:
            for tensor in tensors_in(output):
                self._mark(tensor, {module})

    def operation(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        """Records whose parameters and which outputs of adder layers the operation is given."""
        name = name.rstrip("_")
        behind: set[nn.Module] = set()
        for tensor in tensors_in(args):
            owner = self._parameter_owners().get(storage_of(tensor) or 0)
            # Views made by attributes, such as `weight.T`, are met again in what they are given to.
            if owner is not None and owner not in self.stack and self.function != "get":
                if ARITHMETIC.search(name):
                    self.multiplied.setdefault(owner, self.function or name)
                self.read.setdefault(owner, self.function or name)
            behind |= self._behind.get(id(tensor), set())
        if not behind:
            return
        if _ACTIVATION.fullmatch(name) and (name != "clamp" or args[1] is not None):
            self.zeroed |= behind
        elif _SIGN_KEEPING.fullmatch(name):
            for tensor in tensors_in(output):
                self._mark(tensor, behind)

    def _mark(self, tensor: Tensor, adders: set[nn.Module]) -> None:
        self._alive.append(tensor)
        self._behind[id(tensor)] = self._behind.get(id(tensor), set()) | adders

    def _parameter_owners(self) -> dict[int, nn.Module]:
        """The layer of each storage; of the tensors that are in the place of parameters now."""
        if not self._owners:
            self._owners = {
                storage: layer
                for layer in self._layers
                for parameter in layer.parameters(recurse=False)
                if (storage := storage_of(parameter)) is not None
            }
        return self._owners
