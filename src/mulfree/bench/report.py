"""The result of a benchmark as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mulfree.cost.counting import BASELINE
from mulfree.cost.table import text_table


def report(result: Mapping[str, Any]) -> str:
    """All suites of a result file as text; ratios above 1 mean slower, or more, than conv2d."""
    operator = result["settings"]["operator"]
    parts = []
    if "operator" in result:
        parts.append(_layers(operator, result["operator"]["layers"]))
        parts.append(_summary(result["operator"]["summary"]))
    if "isa" in result:
        parts.append(_instruction_sets(result["isa"]))
    if "step" in result:
        parts.append(_step(result["step"]))
    if "memory" in result:
        parts.append(_memory(operator, result["memory"]))
    return "\n".join(parts)


def _layers(operator: str, entries: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        own = entry["timings"][operator]
        rows.append(
            [
                entry["model"],
                entry["geometry"],
                entry["input"],
                entry["pass"].replace("_", "+"),
                _milliseconds(own),
                _milliseconds(entry["timings"][BASELINE]),
                _ratio(own),
                f"{entry['gtaps_per_s']:.1f}",
            ]
        )
    columns = ("model", "geometry", "input", "pass", operator, BASELINE, "ratio", "Gtap/s")
    return text_table("Layers: median (quartiles), ms", columns, rows, left=4)


def _summary(entries: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [
            entry["model"],
            entry["input"],
            entry["pass"].replace("_", "+"),
            str(entry["geometries"]),
            f"{entry['ratio']:.2f}",
        ]
        for entry in entries
    ]
    columns = ("model", "input", "pass", "geometries", "ratio")
    return text_table(f"Geometric means of the ratios to {BASELINE}", columns, rows, left=3)


def _instruction_sets(entries: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        for isa, timing in entry["timings"].items():
            rows.append(
                [
                    entry["model"],
                    entry["geometry"],
                    entry["pass"].replace("_", "+"),
                    isa,
                    _milliseconds(timing),
                    f"{entry['gtaps_per_s'][isa]:.1f}",
                ]
            )
    columns = ("model", "geometry", "pass", "isa", "time", "Gtap/s")
    return text_table("Instruction sets: median (quartiles), ms", columns, rows, left=4)


def _step(entry: Mapping[str, Any]) -> str:
    rows = [
        [name, _milliseconds(timing), _ratio(timing) if name != BASELINE else ""]
        for name, timing in entry["timings"].items()
    ]
    title = f"Training step of {entry['model']}, batch {entry['batch']}: median (quartiles), ms"
    return text_table(title, ("operator", "time", "ratio"), rows, left=1)


def _memory(operator: str, entry: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            f"{entry[name]['added'] / 2**20:.1f}",
            f"{entry[name]['peak'] / 2**20:.1f}",
            f"{entry['ratio']:.3f}" if name == operator else "",
        ]
        for name in (operator, BASELINE)
    ]
    title = f"Peak memory of training steps of {entry['model']}, batch {entry['batch']}, MiB"
    return text_table(title, ("operator", "added", "process", "ratio"), rows, left=1)


def _milliseconds(timing: Mapping[str, float]) -> str:
    median, q1, q3 = (timing[key] * 1e3 for key in ("median_s", "q1_s", "q3_s"))
    return f"{median:.3g} ({q1:.3g}-{q3:.3g})"


def _ratio(timing: Mapping[str, float]) -> str:
    return f"{timing['ratio']:.2f} ({timing['ratio_q1']:.2f}-{timing['ratio_q3']:.2f})"
