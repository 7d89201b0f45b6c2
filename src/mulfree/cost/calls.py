"""Calls of layers and functions in a forward pass, as counting needs them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from mulfree.cost.elementwise import elementwise
from mulfree.models.zero_run import ARITHMETIC, Observer, tensors_in
from mulfree.opcounts import OpCounts
from mulfree.operators import Operator, operator_of
from mulfree.operators.operator import taps

# Layers of torch that scale and shift their input and have no operator.
_NORMALISATION = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)

# These hold parameters that their owner computes with, or belong to a layer that is listed.
_NEVER_CALLED = (nn.ParameterList, nn.ParameterDict, ParametrizationList)

# Of small shapes these multiply element by element, by the operation of any other product.
_PRODUCTS = ("einsum", "ger", "inner", "kron", "outer", "tensordot")

# Operations of a normalisation by a function.
_FUNCTIONAL_NORMALISATION = re.compile(r"(batch|layer|group|instance)_norm")


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of a layer, or of an elementwise function in the forward of a module.

    Attributes:
        name: Qualified name of the layer, or of the module that calls the function.
        kind: Class of the layer, or name of the function.
        layer: The layer or module.
        operator: Operator of the layer, if it has one.
        input_shape: Shape of the first input.
        output_shape: Shape of the output.
        inputs: Elements of the inputs.
        function: Operations of a function; None of a layer.
    """

    name: str
    kind: str
    layer: nn.Module
    operator: Operator | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    inputs: int
    function: OpCounts | None = None

    @property
    def normalises(self) -> bool:
        """True for a normalisation."""
        return self.function is None and isinstance(self.layer, _NORMALISATION)

    @property
    def counted(self) -> bool:
        """True if its operations are known."""
        return self.operator is not None or self.normalises or self.function is not None

    @property
    def moves(self) -> bool:
        """True if it reads and writes maps; normalisation and lookups are part of a layer."""
        return self.operator is not None or (self.function is not None and self.function.mul > 0)

    @property
    def taps(self) -> int:
        """Pairs of input and weight of a layer with an operator."""
        return taps(self.layer, self.output_shape) if self.operator is not None else 0

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the call reads."""
        if self.function is None:
            yield from self.layer.parameters(recurse=self.operator is not None)


class Calls(Observer):
    """Calls of layers that have an operator or parameters, and of functions outside of them.

    Attributes:
        calls: Calls of layers and of elementwise functions. A layer may be built of others (a
            parametrised weight is one): only the outermost counts.
        functions: Calls of other functions that do arithmetic, by their names and their module's.
        called: Modules that were called.
    """

    def __init__(self, model: nn.Module, normalisation: bool) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.functions: Counter[tuple[str, str]] = Counter()
        self.called: set[nn.Module] = set()
        self._names = {module: name for name, module in model.named_modules()}
        self._operators = {module: operator_of(module) for module in self._names}
        self._arithmetic = (ARITHMETIC, _FUNCTIONAL_NORMALISATION)[: 1 + normalisation]
        self._last = 0

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Record the call of a layer."""
        self.called.add(module)
        if self._inside_layer() or not self._listed(module):
            return
        input_shape = _first_shape((args, kwargs))
        self.calls.append(
            Call(
                name=self._names[module],
                kind=type(module).__name__,
                layer=module,
                operator=self._operators[module],
                input_shape=input_shape,
                output_shape=_first_shape(output),
                inputs=math.prod(input_shape),
            )
        )

    def operation(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        """Record the call of a function outside of layers."""
        module = self.stack[-1]
        if self._inside_layer():
            return
        # Of a module with parameters of its own, which is listed, one of them may be a factor.
        function = elementwise(name, args, output)
        if function and not self._listed(module) and self.function not in _PRODUCTS:
            self.calls.append(
                Call(
                    name=self._names[module],
                    kind=name.removesuffix("_"),
                    layer=module,
                    operator=None,
                    input_shape=_first_shape(args),
                    output_shape=_first_shape(output),
                    inputs=sum(tensor.numel() for tensor in tensors_in(args)),
                    function=function,
                )
            )
        # A layer of torch that has parameters of its own is listed itself.
        listed = self._listed(module) and type(module).__module__.startswith("torch.")
        arithmetic = any(pattern.search(name) for pattern in self._arithmetic)
        if listed or not (arithmetic or self.function in _PRODUCTS):
            return
        # One function may do several operations.
        if self.function is None or self._last != self.number:
            self.functions[self.function or name.strip("_"), self._names[module]] += 1
        self._last = self.number

    def uncalled(self) -> tuple[str, ...]:
        """Names of the layers that have parameters and were not called."""
        return tuple(
            name
            for module, name in self._names.items()
            if module not in self.called
            and next(module.parameters(recurse=False), None) is not None
            and not isinstance(module, _NEVER_CALLED)
        )

    def _inside_layer(self) -> bool:
        return any(self._operators[module] is not None for module in self.stack)

    def _listed(self, module: nn.Module) -> bool:
        return (
            self._operators[module] is not None
            or next(module.parameters(recurse=False), None) is not None
            or isinstance(module, _NORMALISATION)
        )


def _first_shape(value: object) -> tuple[int, ...]:
    """Shape of the first tensor in nested tuples, lists and dicts."""
    tensor = next(tensors_in(value), None)
    return () if tensor is None else tuple(tensor.shape)
