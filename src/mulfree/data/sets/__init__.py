"""Data sets, one module each: files, classes and statistics.

A new data set is a module with a config class called `Config` and a function `load`, and its name
in `SETS`. Sets never import each other.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from mulfree.data.config import DataConfig, SetConfig
from mulfree.data.samples import DataSplits, Progress
from mulfree.errors import ConfigError, choices_message

SETS: tuple[str, ...] = (
    "digits",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "image_folder",
    "synthetic",
)


class DataSet(Protocol):
    """Interface of the module of a data set.

    Attributes:
        Config: Options of this set alone.
    """

    Config: type[SetConfig]

    def load(self, config: DataConfig, options: SetConfig, progress: Progress | None) -> DataSplits:
        """Read the images; `mulfree.data.load` applies hold-out, limit and augmentation."""


def get_set(name: str) -> DataSet:
    """The data set called `name`.

    Raises:
        ConfigError: There is no such data set.
    """
    if name not in SETS:
        raise ConfigError(choices_message("data.load", "name", name, SETS))
    return cast(DataSet, importlib.import_module(f"{__name__}.{name}"))
