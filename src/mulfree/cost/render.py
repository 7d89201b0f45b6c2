"""A profile as a table for the terminal, as markdown and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from mulfree.cost.profile import LayerProfile, Profile, Totals
from mulfree.cost.table import format_size, listed, markdown_table, scaled, text_table

_TEXT_COLUMNS = ("layer", "operator", "output")
_SIZE_COLUMNS = ("params", "bytes", "energy")
# Kinds of operations that are listed even where there are none.
_ALWAYS = ("mul", "add", "xnor")


def to_text(profile: Profile) -> str:
    """The profile as a table of plain characters."""
    *rows, total = _rows(profile)
    left = len(_TEXT_COLUMNS)
    table = text_table(_title(profile), _columns(profile), rows, left=left, total=total)
    return table + "".join(f"{note}\n" for note in _notes(profile))


def to_markdown(profile: Profile) -> str:
    """The profile as a table in markdown."""
    return markdown_table(
        _title(profile), _columns(profile), _rows(profile), _notes(profile), left=len(_TEXT_COLUMNS)
    )


def to_json(profile: Profile) -> str:
    """The profile as JSON with every number in full: operations, bytes, energy in pJ."""
    content = asdict(profile)
    for layer in content["layers"]:
        layer["cost"] = _listed_kinds(profile, layer["cost"])
    total = content["total"]
    content["total"] = _listed_kinds(profile, total.pop("cost")) | total
    return json.dumps(content, indent=2) + "\n"


def _columns(profile: Profile) -> tuple[str, ...]:
    kinds = (f"#{kind}" for kind in _listed_kinds(profile, profile.total.cost))
    return (*_TEXT_COLUMNS, *kinds, *_SIZE_COLUMNS)


def _listed_kinds(profile: Profile, cost: Mapping[str, int]) -> dict[str, int]:
    """Counts of the usual kinds of operations and of the others that the network has."""
    total = profile.total.cost
    return {kind: number for kind, number in cost.items() if kind in _ALWAYS or total[kind]}


def _title(profile: Profile) -> str:
    size = format_size(profile.input_size)
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
        notes.append(f"Parameters, but never called: {listed(profile.uncalled)}.")
    if profile.arena_bytes is not None:
        size = scaled(profile.arena_bytes, unit="B")
        notes.append(f"Arena of a session: {size} for the values of one image.")
    return notes


def _numbered(counts: Counter[str]) -> str:
    return listed([f"{number} x {kind}" for kind, number in counts.items()])


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
                format_size(layer.output_shape[1:]),
                *_numbers(profile, layer),
            ]
        )
    sums = {f"{len(layers)} x {kind}": Totals.of(layers) for kind, layers in others.items()}
    sums["total"] = profile.total
    return [*rows, *([name, "", "", *_numbers(profile, total)] for name, total in sums.items())]


def _numbers(profile: Profile, entry: LayerProfile | Totals) -> Sequence[str]:
    counts = (*_listed_kinds(profile, entry.cost).values(), entry.params)
    size = scaled(entry.weight_bytes + entry.activation_bytes, unit="B")
    return (*map(scaled, counts), size, scaled(entry.energy, unit="J", start="p"))
