"""A comparison of networks as a table for the terminal, as markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from mulfree.cost.comparison import Comparison, NetworkCost
from mulfree.cost.table import format_size, listed, markdown_table, scaled, text_table
from mulfree.errors import printable
from mulfree.opcounts import KINDS

ENERGY_TITLES = {
    "fp32": "fp32",
    "int8": "int8, sums int32",
    "int8_sums_int8": "int8, sums int8",
}
"""Titles of the number formats of energies."""

# Kinds of operations that are listed even where there are none.
_ALWAYS = ("mul", "add", "xnor")
_ARITHMETIC = (("arithmetic", ""),)
_LEVELS = (*_ARITHMETIC, ("sram", " + SRAM"), ("dram", " + DRAM"))
_MISSING = "-"


def comparison_to_text(comparison: Comparison) -> str:
    """The comparison as a table of plain characters, a column for each network."""
    table = text_table(_title(comparison), _columns(comparison), _rows(comparison), left=1)
    return table + "".join(f"{note}\n" for note in _notes(comparison))


def comparison_to_markdown(comparison: Comparison) -> str:
    """The comparison as a table in markdown, a column for each network."""
    title, columns = _title(comparison), _columns(comparison)
    return markdown_table(title, columns, _rows(comparison), _notes(comparison), left=1)


def comparison_to_json(comparison: Comparison) -> str:
    """The comparison as JSON with every number in full: operations, energy in pJ, seconds."""
    return json.dumps(asdict(comparison), indent=2) + "\n"


def _title(comparison: Comparison) -> str:
    return f"Cost of one image, {comparison.convention} convention, energy at 45 nm"


def _columns(comparison: Comparison) -> tuple[str, ...]:
    return ("", *(network.name for network in comparison.networks))


def _rows(comparison: Comparison) -> Iterator[list[str]]:
    networks = comparison.networks
    yield ["input", *(format_size(network.input_size) for network in networks)]
    for kind in KINDS:
        if kind in _ALWAYS or any(network.cost[kind] for network in networks):
            yield [f"#{kind}", *(scaled(network.cost[kind]) for network in networks)]
    yield ["parameters", *(scaled(network.params) for network in networks)]
    for dtype, title in ENERGY_TITLES.items():
        # The papers' sums of bytes are arithmetic alone.
        for level, suffix in _LEVELS if dtype != "int8_sums_int8" else _ARITHMETIC:
            cells = (_energy(network, dtype, level) for network in networks)
            yield [f"energy {title}{suffix}", *cells]
    if comparison.latency is not None:
        seconds = comparison.latency.seconds
        yield [
            "latency",
            *(
                scaled(seconds[network.name] * 1e6, unit="s", start="u")
                if network.name in seconds
                else _MISSING
                for network in networks
            ),
        ]


def _energy(network: NetworkCost, dtype: str, level: str) -> str:
    if dtype not in network.energy:
        return _MISSING
    return scaled(getattr(network.energy[dtype], level), unit="J", start="p")


def _notes(comparison: Comparison) -> Iterator[str]:
    yield "SRAM, DRAM: weights and maps of each layer moved once, 5 and 640 pJ for 4 bytes."
    for network in comparison.networks:
        if network.uncounted:
            found = listed(network.uncounted)
            yield f"Arithmetic not counted in {printable(network.name)}: {found}."
    if comparison.latency is not None:
        yield _machine(comparison)


def _machine(comparison: Comparison) -> str:
    latency = comparison.latency
    assert latency is not None
    commit = f", commit {latency.commit[:12]}" if latency.commit else ""
    plural = "s" * (latency.threads > 1)
    return printable(
        f"Latency: median of {latency.rounds}, batch 1, {latency.threads} thread{plural}, "
        f"{latency.processor}{commit}; float networks in PyTorch, quantised ones in the runtime."
    )
