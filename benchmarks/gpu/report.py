"""The result of a GPU benchmark as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import geometric_mean
from typing import Any

from benchmarks.gpu.schedule import MEASURED

from mulfree.cost.counting import BASELINE
from mulfree.cost.table import text_table

NOT_MEASURED = "not measured"


def report(result: Mapping[str, Any]) -> str:
    """All parts of a result file as text; times are medians, ratios to the best convolution."""
    operator, parts = result["settings"]["operator"], result["parts"]
    tables = [_targets(result["targets"]), _status(parts)]
    layers = _entries(parts, lambda name: name == "forward" or name.startswith("layers"))
    steps = _entries(parts, lambda name: "steps" in name)
    for entries, table in (
        (_entries(parts, "rates".__eq__), _rates),
        (steps, lambda entries: _steps(operator, entries)),
        (_entries(parts, "memory".__eq__), lambda entries: _memory(operator, entries)),
        (_entries(parts, "epoch".__eq__), _epochs),
        (layers, lambda entries: _layers(operator, entries)),
    ):
        if entries:
            tables.append(table(entries))
    return "\n".join(tables)


def _targets(rows: Iterable[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        sign = ">=" if row["at_least"] else "<="
        figure = row["measured"]
        cells.append(
            [
                row["name"],
                f"{sign} {row['bound']:g} {row['unit']}".rstrip(),
                NOT_MEASURED if figure is None else f"{figure:.3g} {row['unit']}".rstrip(),
                {None: NOT_MEASURED, True: "met", False: "not met"}[row["met"]],
            ]
        )
    return text_table("Targets", ("target", "bound", "measured", ""), cells, left=1)


def _status(parts: Mapping[str, Any]) -> str:
    rows = [
        [name, str(len(part["entries"])), "" if part["status"] == MEASURED else part["status"]]
        for name, part in parts.items()
    ]
    rows += [
        [name, "", f"{entry.get('model', '')} {entry.get('geometry', '')}: {entry['error']}"]
        for name, part in parts.items()
        for entry in part["entries"]
        if "error" in entry
    ]
    return text_table("Parts", ("part", "entries", "what is missing"), rows, left=3)


def _rates(entries: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [
            entry["name"],
            " ".join(entry["instructions"]),
            f"{entry['taps_per_s'] / 1e12:.2f}",
            _number(entry["instructions_per_clock"]),
        ]
        for entry in entries
    ]
    columns = ("loop", "instructions", "T taps/s", "lanes per SM and clock")
    return text_table("Rates of instructions", columns, rows, left=2)


def _steps(operator: str, entries: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        own, base = (
            f"{entry['timings'][entry['best'][name]]['median_s'] * 1e3:.3g}"
            for name in (operator, BASELINE)
        )
        rows.append(
            [
                entry["model"],
                str(entry["batch"]),
                entry["precision"],
                entry["mode"],
                own,
                base,
                f"{entry['ratio']:.2f}",
            ]
        )
    columns = ("model", "batch", "format", "mode", operator, BASELINE, "ratio")
    return text_table("Training steps, ms", columns, rows, left=4)


def _memory(operator: str, entries: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [
            entry["model"],
            str(entry["batch"]),
            entry["precision"],
            *(f"{entry[name]['added'] / 2**20:.0f}" for name in (operator, BASELINE)),
            f"{entry['ratio']:.3f}",
        ]
        for entry in entries
    ]
    columns = ("model", "batch", "format", operator, BASELINE, "ratio")
    return text_table("Peak memory of training steps, MiB", columns, rows, left=3)


def _epochs(entries: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [
            entry["model"],
            entry["operator"],
            entry["images"],
            entry["precision"],
            entry["mode"],
            f"{entry['seconds']:.2f}",
            f"{entry['images_per_s']:.0f}",
        ]
        for entry in entries
    ]
    columns = ("model", "operator", "images", "format", "mode", "seconds", "images/s")
    return text_table("An epoch of CIFAR-10, loader included", columns, rows, left=5)


def _layers(operator: str, entries: Iterable[Mapping[str, Any]]) -> str:
    """Geometric means over the geometries of a network."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        key = (entry["model"], entry["pass"].replace("_", "+"), entry["precision"])
        groups.setdefault(key, []).append(entry)
    rows = []
    for key, members in groups.items():
        shares = [entry["limit_share"] for entry in members if entry["limit_share"] is not None]
        rows.append(
            [
                *key,
                str(len(members)),
                f"{geometric_mean(entry['ratio'] for entry in members):.2f}",
                f"{geometric_mean(entry['taps_per_s'] for entry in members) / 1e12:.2f}",
                f"{geometric_mean(shares):.0%}" if shares else "",
            ]
        )
    columns = ("model", "pass", "format", "geometries", f"{operator}/{BASELINE}", "T taps/s")
    title = "Layers, geometric means; share of the limit of two instructions a tap in fp32"
    return text_table(title, (*columns, "of limit"), rows, left=3)


def _entries(parts: Mapping[str, Any], wanted: Any) -> list[Mapping[str, Any]]:
    return [
        entry
        for name, part in parts.items()
        if wanted(name)
        for entry in part["entries"]
        if "error" not in entry
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
