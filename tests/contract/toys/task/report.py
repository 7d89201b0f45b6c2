from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def epoch_line(row: Mapping[str, float], part: str) -> str:
    return f"{part} error {row[f'{part}_error']:.3f}"


def panels(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [("error", ["error"]), ("loss", ["loss"])]


def summary(metrics: Mapping[str, Any]) -> str:
    return f"error {metrics['test_error']:.3f}"


def comparison(metrics: Mapping[str, Any], name: str) -> str:
    return name
