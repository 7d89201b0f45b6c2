"""Targets of classification: labels `[N]`, int64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

Targets: TypeAlias = Tensor
"""Labels `[N]`."""


def count(targets: Targets) -> int:
    """Return the number of images."""
    return len(targets)


def model_arguments(classes: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of `create_model` that follow from the classes of the data."""
    return {"num_classes": len(classes)}
