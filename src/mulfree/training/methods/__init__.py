"""Training methods, one module each.

A new method is a module with a config class called `Config` and a task class called `Task`, and
its name in `METHODS`. `Task(model, config)` is a `TrainingTask`.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from torch import nn

from mulfree.errors import ConfigError, choices_message
from mulfree.training.task import MethodConfig, TrainingTask

METHODS: tuple[str, ...] = ("supervised", "qat", "kd", "pkkd")


class Method(Protocol):
    """What the module of a method offers."""

    Config: type[MethodConfig]

    def Task(self, model: nn.Module, config: MethodConfig) -> TrainingTask:
        """The task that trains `model`."""
        ...


def get_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        ConfigError: There is no such method.
    """
    if name not in METHODS:
        raise ConfigError(choices_message("get_method", "name", name, METHODS))
    return cast(Method, importlib.import_module(f"{__name__}.{name}"))
