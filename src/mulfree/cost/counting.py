"""Count the operations, parameters, bytes and energy of any torch model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from mulfree.cost.energy import energy, number_format
from mulfree.cost.profile import FunctionProfile, LayerProfile, Profile, Totals
from mulfree.errors import ConfigError, choices_message
from mulfree.models.wrappers import unwrapped
from mulfree.models.zero_run import ARITHMETIC, Observer, tensors_in, zero_run
from mulfree.opcounts import OpCounts
from mulfree.operators import Operator, operator_of

CONVENTIONS = ("exact", "paper")

# The operator that multiplies: baseline of all comparisons.
BASELINE = "conv2d"

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


def count(
    model: nn.Module,
    input_size: Sequence[int],
    *,
    dtype: str = "fp32",
    convention: str = "exact",
    normalisation: bool = False,
    name: str | None = None,
) -> Profile:
    """Count the cost of one forward pass of `model` on one input, layer by layer.

    Every operator declares its own cost: a convolution one multiplication and one addition for
    each pair of input and weight, an adder layer two additions. Biases are left out. A layer that
    is called several times counts each time. Operations outside of layers (pooling, activations,
    sums of branches, functions called in `forward`) are not counted, nor are layers of a kind
    without an operator. `Profile.uncounted` lists such layers with parameters, and the functions
    that multiply or compare tensors (`conv2d`, `linear`, `@`, `adder2d`, attention).

    The model is run once, in evaluation mode, without data where it allows that; its parameters,
    statistics and training flags stay as they are.

    Args:
        model: Any module that maps a float tensor `[N, *input_size]` to anything; the network
            inside of `torch.compile` and of parallel wrappers is counted.
        input_size: Shape of one input without the batch, for example `(3, 32, 32)`.
        dtype: Number format for bytes and energy: a key of `ENERGY_45NM`.
        convention: "exact" counts every layer by its own operator. "paper" counts the convolutions
            that a network of another operator keeps (first and last layer) as that operator too,
            which is how the tables of 1912.13200 come to no multiplication at all.
        normalisation: Include one multiplication and one addition for every output of a
            normalisation layer (its inference form); the papers ignore them.
        name: Name of the model; its class by default.

    Returns:
        The profile, with one entry for every call of a layer that has an operator or parameters.

    Raises:
        ConfigError: `model` is not a module or not initialised, or an option is unknown.
        ShapeError: `input_size` is not a shape, or the model fails on such an input.

    References:
        AdderNet: Do We Really Need Multiplications in Deep Learning? arXiv 1912.13200, Tables 2, 3.
    """
    itemsize = number_format(dtype).itemsize
    if convention not in CONVENTIONS:
        raise ConfigError(choices_message("cost.count", "convention", convention, CONVENTIONS))
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"cost.count: `model` must be a torch.nn.Module, got {type(model).__name__}"
        )
    model = unwrapped(model)
    trace = zero_run("cost.count", model, input_size, lambda: _Calls(model, normalisation))
    calls = trace.calls
    stand_in = _other_operator(calls) if convention == "paper" else None

    layers = []
    seen: set[int] = set()
    repeats: Counter[int] = Counter()
    for call in calls:
        cost = call.cost(stand_in, normalisation)
        params = 0
        for parameter in call.layer.parameters(recurse=call.operator is not None):
            params += parameter.numel() if id(parameter) not in seen else 0
            seen.add(id(parameter))
        layers.append(
            LayerProfile(
                name=call.name,
                kind=type(call.layer).__name__,
                operator=call.operator.name if call.operator else None,
                call=repeats[id(call.layer)],
                input_shape=call.input_shape,
                output_shape=call.output_shape,
                cost=cost,
                params=params,
                weight_bytes=params * itemsize,
                activation_bytes=math.prod(call.output_shape) * itemsize,
                energy=energy(cost, dtype),
                counted=call.operator is not None or call.normalises,
            )
        )
        repeats[id(call.layer)] += 1

    params = sum(parameter.numel() for parameter in model.parameters())
    return Profile(
        model=name or type(model).__name__,
        input_size=tuple(input_size),
        dtype=dtype,
        convention=convention,
        normalisation=normalisation,
        layers=tuple(layers),
        # Layers that were not called have parameters, too.
        total=replace(Totals.of(layers), params=params, weight_bytes=params * itemsize),
        uncalled=trace.uncalled(),
        functions=tuple(
            FunctionProfile(function=function, module=module, calls=calls)
            for (function, module), calls in trace.functions.items()
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One call of a layer."""

    name: str
    layer: nn.Module
    operator: Operator | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def normalises(self) -> bool:
        return isinstance(self.layer, _NORMALISATION)

    def cost(self, stand_in: Operator | None, normalisation: bool) -> OpCounts:
        """Operations of the call; `stand_in`, if given, takes the place of a convolution."""
        if self.operator is not None:
            operator = self.operator
            if stand_in is not None and operator.name == BASELINE:
                operator = stand_in
            return operator.count(self.layer, self.input_shape, self.output_shape)
        if self.normalises and normalisation:
            outputs = math.prod(self.output_shape)
            return OpCounts(mul=outputs, add=outputs)
        return OpCounts()


def _other_operator(calls: Sequence[_Call]) -> Operator | None:
    """Most called operator other than the baseline; None if there is none."""
    others = [call.operator for call in calls if call.operator and call.operator.name != BASELINE]
    return Counter(others).most_common(1)[0][0] if others else None


class _Calls(Observer):
    """Calls of layers that have an operator or parameters, and of functions outside of them.

    Attributes:
        calls: Calls of layers. A layer may be built of others (a parametrised weight is one): only
            the outermost counts.
        functions: Calls of functions that do arithmetic, by their names and their module's.
        called: Modules that were called.
    """

    def __init__(self, model: nn.Module, normalisation: bool) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.functions: Counter[tuple[str, str]] = Counter()
        self.called: set[nn.Module] = set()
        self._names = {module: name for name, module in model.named_modules()}
        self._operators = {module: operator_of(module) for module in self._names}
        self._arithmetic = (ARITHMETIC, _FUNCTIONAL_NORMALISATION)[: 1 + normalisation]
        self._last = 0

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self.called.add(module)
        if self._inside_layer() or not self._listed(module):
            return
        self.calls.append(
            _Call(
                name=self._names[module],
                layer=module,
                operator=self._operators[module],
                input_shape=_first_shape((args, kwargs)),
                output_shape=_first_shape(output),
            )
        )

    def operation(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        module = self.stack[-1]
        # A layer of torch that has parameters of its own is listed itself.
        listed = self._listed(module) and type(module).__module__.startswith("torch.")
        arithmetic = any(pattern.search(name) for pattern in self._arithmetic)
        if listed or self._inside_layer() or not (arithmetic or self.function in _PRODUCTS):
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
