"""Trial runs before and after a conversion: replaced layers must still be called."""

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

# Operations of torch's dispatcher with nearly zero or constant output for large negative inputs,
# and operations that keep them negative.
_ACTIVATION = re.compile(
    r"celu|clamp|clamp_min|elu|gelu|hardsigmoid|hardswish|hardtanh|mish|relu|selu|sigmoid|silu"
    r"|softplus|tanh|threshold"
)
_SIGN_KEEPING = re.compile(
    # Sums, pooling, resizing, padding, dropout.
    r"add|sum|mean|amax|amin|max|min|.*(max|avg)_pool.*|upsample_.*|(.*_)?pad(_nd|\d?d)|.*dropout"
    # Changes of order, shape, or memory.
    r"|_to_copy|alias|as_strided|cat|.*channel_shuffle|clone|contiguous|detach|expand|flip|gather"
    r"|index|index_select|permute|pixel_shuffle|reshape|roll|select|slice|split.*|squeeze|stack|t"
    r"|transpose|unbind|unsqueeze|_?(unsafe_)?view"
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Run of a network before layers are replaced, for comparison with a second run.

    Attributes:
        layers: The layers to replace.
        input_size: Shape of one input without the batch.
        uses: Uses of the layers in the first run.
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
            ConfigError: It uses the parameters of a layer without calling the layer.
            ShapeError: It fails on the input.
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
            network: The network after the replacement.
            new: New layer for each old one.
            adders: Layers whose outputs are never positive.

        Returns:
            Layers of `adders` followed by an activation without batch norm between.

        Raises:
            ConfigError: It fails, still uses an old layer, or does not use a new one.
        """
        watched = [*new, *new.values()]
        try:
            uses = zero_run("convert", network, self.input_size, lambda: Uses(watched, adders))
        except ShapeError as error:
            raise ConfigError(
                "convert: `model` must run with the new layers, got "
                f"{error.__cause__}; keep the layers concerned"
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
    """Uses of layers in one forward pass.

    Args:
        layers: The layers to observe.
        adders: Layers whose outputs are never positive.

    Attributes:
        called: Modules that were called.
        read: Layers whose parameters other modules used, and the first function that did.
        multiplied: The same for convolutions and products of tensors.
        zeroed: Layers followed by an activation without batch norm between.
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
        self._adders_before: dict[int, set[nn.Module]] = {}
        # Keeps the ids above unique.
        self._alive: list[Tensor] = []

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Record the call, and the outputs of adder layers."""
        self.called.add(module)
        if module in self._adders:
            for tensor in tensors_in(output):
                self._mark(tensor, {module})

    def operation(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        """Record the layers whose parameters or outputs are arguments of the operation."""
        name = name.rstrip("_")
        before: set[nn.Module] = set()
        for tensor in tensors_in(args):
            owner = self._parameter_owners().get(storage_of(tensor) or 0)
            # Views by attributes, such as `weight.T`, appear again in the operation on them.
            if owner is not None and owner not in self.stack and self.function != "get":
                if ARITHMETIC.search(name):
                    self.multiplied.setdefault(owner, self.function or name)
                self.read.setdefault(owner, self.function or name)
            before |= self._adders_before.get(id(tensor), set())
        if not before:
            return
        if _ACTIVATION.fullmatch(name) and (name != "clamp" or args[1] is not None):
            self.zeroed |= before
        elif _SIGN_KEEPING.fullmatch(name):
            for tensor in tensors_in(output):
                self._mark(tensor, before)

    def _mark(self, tensor: Tensor, adders: set[nn.Module]) -> None:
        self._alive.append(tensor)
        self._adders_before[id(tensor)] = self._adders_before.get(id(tensor), set()) | adders

    def _parameter_owners(self) -> dict[int, nn.Module]:
        """Layer of each storage of the tensors now in place of the parameters."""
        if not self._owners:
            self._owners = {
                storage: layer
                for layer in self._layers
                for parameter in layer.parameters(recurse=False)
                if (storage := storage_of(parameter)) is not None
            }
        return self._owners
