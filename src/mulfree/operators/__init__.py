"""Operators that compare a window of the input with a filter, one folder each.

A new operator is a folder with an `OPERATOR` in its `__init__` and a line in `OPERATORS` below. Its
module `integer`, which is optional, defines its quantisation; see `integer_form`.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec

from torch import nn

from mulfree.errors import ConfigError, choices_message
from mulfree.opcounts import OpCounts as OpCounts
from mulfree.operators.integer_form import IntegerForm
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


def integer_form(name: str) -> IntegerForm | None:
    """Return the integer form of the operator called `name`, or None if its folder has none."""
    module = f"{__name__}.{name}.integer"
    if find_spec(module) is None:
        return None
    form = importlib.import_module(module).INTEGER_FORM
    assert isinstance(form, IntegerForm)
    return form
