"""Count the operations, parameters, bytes and energy of any torch model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from mulfree.cost.calls import Call, Calls
from mulfree.cost.energy import energy, number_format
from mulfree.cost.profile import FunctionProfile, LayerProfile, Profile, Totals
from mulfree.errors import ConfigError, choices_message
from mulfree.models.wrappers import unwrapped
from mulfree.models.zero_run import zero_run
from mulfree.opcounts import OpCounts
from mulfree.operators import Operator

CONVENTIONS = ("exact", "paper")

# The operator that multiplies: baseline of all comparisons.
BASELINE = "conv2d"

# Operator of a layer with one-bit inputs and weights, which is counted alone.
_BINARY = "binary"


def count(
    model: nn.Module,
    input_size: Sequence[int],
    *,
    dtype: str = "fp32",
    convention: str = "exact",
    normalisation: bool = False,
    binary: bool = False,
    name: str | None = None,
) -> Profile:
    """Count the cost of one forward pass of `model` on one input, layer by layer.

    Every operator declares its own cost: a convolution one multiplication and one addition for
    each pair of input and weight, an adder layer two additions; padding takes part. Biases are left
    out. A layer that is called several times counts each time. Of functions outside of layers,
    products of two maps (a channel gate) are multiplications, and nonlinear functions (sigmoid,
    SiLU, hard-swish) are `lookup`. Pooling, padding, ReLU and sums of branches are not counted, nor
    are layers of a kind without an operator. `Profile.uncounted` lists such layers with
    parameters, and the functions that multiply or compare tensors (`conv2d`, `linear`, `@`,
    `adder2d`, attention).

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
        binary: Count the binary twin: the layers of another operator than the convolution, or of
            a network without such all but the first and the last, take one `xnor` and one
            addition a tap and one bit a weight. With the paper convention all layers do.
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
    trace = zero_run("cost.count", model, input_size, lambda: Calls(model, normalisation))
    stand_in = _stand_in(trace.calls) if convention == "paper" and not binary else None
    binarised = _binarised(trace.calls, everywhere=convention == "paper") if binary else ()
    one_bit = {id(call) for call in binarised}

    layers = []
    seen: set[nn.Parameter] = set()
    repeats: Counter[tuple[nn.Module, str]] = Counter()
    for call in trace.calls:
        operator, cost = _operations(call, stand_in, normalisation, id(call) in one_bit)
        parameters = set(call.parameters())
        params = sum(parameter.numel() for parameter in parameters - seen)
        weight_bits = 1 if id(call) in one_bit else 8 * itemsize
        output_bytes = math.prod(call.output_shape) * itemsize
        moved = sum(parameter.numel() for parameter in parameters) * weight_bits // 8
        moved += call.inputs * itemsize + output_bytes
        layers.append(
            LayerProfile(
                name=call.name,
                kind=call.kind,
                operator=operator,
                call=repeats[call.layer, call.kind],
                input_shape=call.input_shape,
                output_shape=call.output_shape,
                cost=cost,
                accumulations=call.taps,
                params=params,
                weight_bytes=params * weight_bits // 8,
                activation_bytes=output_bytes,
                traffic_bytes=moved if call.moves else 0,
                energy=energy(cost, dtype),
                counted=call.counted,
            )
        )
        seen |= parameters
        repeats[call.layer, call.kind] += 1

    params = sum(parameter.numel() for parameter in model.parameters())
    total = Totals.of(layers)
    # Layers that were not called have parameters, too.
    uncalled_bytes = (params - total.params) * itemsize
    return Profile(
        model=name or type(model).__name__,
        input_size=tuple(input_size),
        dtype=dtype,
        convention=convention,
        normalisation=normalisation,
        layers=tuple(layers),
        total=replace(total, params=params, weight_bytes=total.weight_bytes + uncalled_bytes),
        uncalled=trace.uncalled(),
        functions=tuple(
            FunctionProfile(function=function, module=module, calls=calls)
            for (function, module), calls in trace.functions.items()
        ),
    )


def _operations(
    call: Call, stand_in: Operator | None, normalisation: bool, one_bit: bool
) -> tuple[str | None, OpCounts]:
    """Name of the operator and operations of a call.

    Args:
        call: The call.
        stand_in: Operator in the place of the baseline, if any.
        normalisation: Whether normalisation counts.
        one_bit: Whether it is a layer of the binary twin.
    """
    if call.function is not None:
        return None, call.function
    operator = call.operator
    if operator is None:
        outputs = math.prod(call.output_shape) if call.normalises and normalisation else 0
        return None, OpCounts(mul=outputs, add=outputs)
    if one_bit:
        return _BINARY, OpCounts(xnor=1, add=1) * call.taps
    counter = stand_in if stand_in is not None and operator.name == BASELINE else operator
    return operator.name, counter.count(call.layer, call.input_shape, call.output_shape)


def _stand_in(calls: Sequence[Call]) -> Operator | None:
    """Most called operator other than the baseline; None if there is none."""
    others = [call.operator for call in calls if call.operator and call.operator.name != BASELINE]
    return Counter(others).most_common(1)[0][0] if others else None


def _binarised(calls: Sequence[Call], *, everywhere: bool) -> Sequence[Call]:
    """Calls of the layers that the binary twin of a network binarises."""
    layers = [call for call in calls if call.operator is not None]
    if everywhere:
        return layers
    others = [call for call in layers if call.operator and call.operator.name != BASELINE]
    return others or layers[1:-1]
