from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def count(targets: Tensor) -> int:
    return len(targets)


def model_arguments(classes: Sequence[str]) -> dict[str, Any]:
    return {"num_classes": len(classes)}
