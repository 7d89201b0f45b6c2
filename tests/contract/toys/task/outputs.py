from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAMES = ("brightness",)


def decode(outputs: Any, names: Sequence[str], count: int) -> list[tuple[str, float]]:
    return [("brightness", float(outputs.mean()))]
