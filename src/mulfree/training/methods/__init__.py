"""Training methods, one module each.

A new method is a module with a class `Method`, a `TrainingMethod`, and its name in `METHODS`.
"""

from __future__ import annotations

import importlib

from mulfree.errors import ConfigError, choices_message
from mulfree.training.method import TrainingMethod

METHODS: tuple[str, ...] = (
    "supervised",
    "finetune",
    "qat",
    "kd",
    "pkkd",
    "embedded_kd",
    "early_exit",
    "dynamic_resolution",
    "graft",
)
DEFAULT = "supervised"


def get_method(name: str) -> type[TrainingMethod]:
    """Return the class of the method called `name`.

    Raises:
        ConfigError: There is no such method.
    """
    if name not in METHODS:
        raise ConfigError(choices_message("get_method", "name", name, METHODS))
    method: type[TrainingMethod] = importlib.import_module(f"{__name__}.{name}").Method
    return method
