"""Operations of functions that compute each number of a map on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mulfree.models.zero_run import tensors_in
from mulfree.opcounts import OpCounts

# Of torch's dispatcher. ReLU and other clamps compare and are left out.
_NONLINEAR = {
    *("celu", "elu", "erf", "exp", "gelu", "hardsigmoid", "hardswish", "leaky_relu"),
    *("log_sigmoid_forward", "mish", "sigmoid", "silu", "softplus", "tanh"),
}


def elementwise(name: str, args: Sequence[Any], output: Any) -> OpCounts | None:
    """Operations of a call of torch's dispatcher, or None of one that is not counted.

    A nonlinear function is one `lookup` for every output: in int8 a table of 256 entries, in
    floating point the function itself, however it is approximated. A product of two maps, such as
    a channel gate `x * gate`, is one multiplication for every output; one with a scalar is none.

    Args:
        name: Name of the operation, such as `silu_`.
        args: Its arguments.
        output: Its result.
    """
    made = next(tensors_in(output), None)
    if made is None:
        return None
    outputs = math.prod(made.shape)
    plain = name.removesuffix("_")
    if plain in _NONLINEAR:
        return OpCounts(lookup=outputs)
    if plain == "mul" and all(isinstance(factor, Tensor) and factor.dim() for factor in args[:2]):
        return OpCounts(mul=outputs)
    return None
