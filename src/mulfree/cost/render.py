"""A profile as a table for the terminal, as markdown and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from mulfree.cost.profile import LayerProfile, Profile
from mulfree.cost.table import text_table
from mulfree.errors import printable
from mulfree.operators import Cost

_COLUMNS = ("layer", "operator", "output", "#mul", "#add", "#xnor", "params", "bytes", "energy")
_TEXT_COLUMNS = 3
_MAX_LISTED = 8


def to_text(profile: Profile) -> str:
    """The profile as a table of plain characters."""
    *rows, total = _rows(profile)
    table = text_table(_title(profile), _COLUMNS, rows, left=_TEXT_COLUMNS, total=total)
    return table + "".join(f"{note}\n" for note in _notes(profile))


def to_markdown(profile: Profile) -> str:
    """The profile as a table in markdown."""
    rules = ["---" if index < _TEXT_COLUMNS else "---:" for index in range(len(_COLUMNS))]
    rows = [_COLUMNS, rules, *_rows(profile)]
    lines = [_title(profile), "", *("| " + " | ".join(row) + " |" for row in rows)]
    for note in _notes(profile):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def to_json(profile: Profile) -> str:
    """The profile as JSON with every number in full: operations, bytes, energy in pJ."""
    return json.dumps(asdict(profile), indent=2) + "\n"


def _title(profile: Profile) -> str:
    size = "x".join(map(str, profile.input_size))
    normalisation = "including normalisation" if profile.normalisation else "without normalisation"
    return (
        f"{profile.model}, input {size}, {profile.dtype}, {profile.convention} convention, "
        f"{normalisation}"
    )


def _notes(profile: Profile) -> list[str]:
    kinds = Counter(layer.kind for layer in profile.layers if not layer.counted)
    functions = Counter({str(function): function.calls for function in profile.functions})
    notes = []
    if kinds:
        notes.append(f"Arithmetic not counted, no operator declares it: {_numbered(kinds)}.")
    if functions:
        notes.append(f"Arithmetic not counted, done by functions: {_numbered(functions)}.")
    if profile.uncalled:
        notes.append(f"Parameters, but never called: {_listed(profile.uncalled)}.")
    return notes


def _numbered(counts: Counter[str]) -> str:
    return _listed([f"{number} x {kind}" for kind, number in counts.items()])


def _listed(items: Sequence[str]) -> str:
    """The first of the items, and how many more there are."""
    more = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return printable(", ".join(items[:_MAX_LISTED]) + more)


def _rows(profile: Profile) -> list[list[str]]:
    """One row for every call of an operator, one for every other kind of layer, and the total."""
    rows = []
    others: dict[str, list[LayerProfile]] = {}
    for layer in profile.layers:
        if layer.operator is None:
            others.setdefault(layer.kind, []).append(layer)
            continue
        name = layer.name or profile.model
        rows.append(
            [
                f"{name} (call {layer.call + 1})" if layer.call else name,
                layer.operator,
                "x".join(map(str, layer.output_shape[1:])),
                *_numbers(
                    layer.cost,
                    layer.params,
                    layer.weight_bytes + layer.activation_bytes,
                    layer.energy,
                ),
            ]
        )
    for kind, layers in others.items():
        rows.append(
            [
                f"{len(layers)} x {kind}",
                "",
                "",
                *_numbers(
                    sum((layer.cost for layer in layers), Cost()),
                    sum(layer.params for layer in layers),
                    sum(layer.weight_bytes + layer.activation_bytes for layer in layers),
                    sum(layer.energy for layer in layers),
                ),
            ]
        )
    total = profile.total
    numbers = _numbers(
        Cost(mul=total.mul, add=total.add, xnor=total.xnor),
        total.params,
        total.weight_bytes + total.activation_bytes,
        total.energy,
    )
    return [*rows, ["total", "", "", *numbers]]


def _numbers(cost: Cost, params: int, size: int, energy: float) -> Sequence[str]:
    counts = (cost.mul, cost.add, cost.xnor, params)
    return (*map(_scaled, counts), _scaled(size, unit="B"), _scaled(energy, unit="J", start="p"))


def _scaled(value: float, unit: str = "", start: str = " ") -> str:
    """`value` with four significant digits and a decimal prefix, counted up from `start`."""
    prefixes = "pnum kMGTP"
    index = prefixes.index(start)
    # What is printed is compared: 999.96 would print as 1000.
    while float(f"{value:.4g}") >= 1000 and index < len(prefixes) - 1:
        value /= 1000
        index += 1
    return f"{value:.4g} {prefixes[index].strip()}{unit}".rstrip()
