"""Operators that compare a window of the input with a filter, one folder each.

A new operator is a folder with an `OPERATOR` in its `__init__` and a line in `OPERATORS` below.
"""

from __future__ import annotations

import importlib

from torch import nn

from mulfree.errors import ConfigError, choices_message
from mulfree.opcounts import OpCounts as OpCounts
from mulfree.operators.operator import Operator as Operator
from mulfree.operators.operator import uses_adaptive_local_lr as uses_adaptive_local_lr

OPERATORS: tuple[str, ...] = ("conv2d", "adder2d")


def get_operator(name: str) -> Operator:
    """The operator called `name`.

    Raises:
        ConfigError: There is no such operator.
    """
    if name not in OPERATORS:
        raise ConfigError(choices_message("get_operator", "name", name, OPERATORS))
    operator = importlib.import_module(f"{__name__}.{name}").OPERATOR
    assert isinstance(operator, Operator)
    return operator


def operator_of(layer: nn.Module) -> Operator | None:
    """The operator whose layer class `layer` is an instance of, if any."""
    for name in OPERATORS:
        operator = get_operator(name)
        if isinstance(layer, (operator.conv, operator.linear)):
            return operator
    return None
