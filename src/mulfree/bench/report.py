"""Cells that the tables of several suites share."""

from __future__ import annotations

from collections.abc import Mapping


def milliseconds(timing: Mapping[str, float], digits: int = 3) -> str:
    """Median and quartiles, with so many digits."""
    median, q1, q3 = (timing[key] * 1e3 for key in ("median_s", "q1_s", "q3_s"))
    return f"{median:.{digits}g} ({q1:.{digits}g}-{q3:.{digits}g})"


def ratio(timing: Mapping[str, float]) -> str:
    """Ratio to the baseline, with its quartiles."""
    return f"{timing['ratio']:.2f} ({timing['ratio_q1']:.2f}-{timing['ratio_q3']:.2f})"
