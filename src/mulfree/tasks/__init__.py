"""Tasks, one folder each: the facets that data, method, metric and report have to agree on.

A new task is a folder with a module for every facet of `FACETS` and its name in `TASKS`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from mulfree.errors import ConfigError, choices_message
from mulfree.tasks.task import FACETS as FACETS
from mulfree.tasks.task import Task as Task

TASKS: tuple[str, ...] = ("classification",)
DEFAULT = "classification"


def get_facet(task: str, name: str) -> ModuleType:
    """Return one facet of a task; `outputs` is loaded without torch.

    Raises:
        ConfigError: There is no such task.
    """
    if task not in TASKS:
        raise ConfigError(choices_message("get_task", "name", task, TASKS))
    return importlib.import_module(f"{__name__}.{task}.{name}")


def get_task(name: str = DEFAULT) -> Task:
    """Return the task called `name`.

    Raises:
        ConfigError: There is no such task.
    """
    facets: dict[str, Any] = {facet: get_facet(name, facet) for facet in FACETS}
    return Task(name=name, **facets)
