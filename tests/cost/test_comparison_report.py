from __future__ import annotations

import json

import pytest

from mulfree import cost
from mulfree.opcounts import OpCounts

ENERGY = cost.Energy(arithmetic=1e6, sram=2e6, dram=3e9)
COMPARISON = cost.Comparison(
    networks=(
        cost.NetworkCost(
            name="float",
            input_size=(3, 8, 8),
            cost=OpCounts(mul=1_000, add=2_000, lookup=64),
            params=123,
            energy=dict.fromkeys(("fp32", "int8", "int8_sums_int8"), ENERGY),
            uncounted=("head", "conv2d in body"),
        ),
        cost.NetworkCost(
            name="a|b\x1b[31m.mulfree",
            input_size=(3, 8, 8),
            cost=OpCounts(add=3_000),
            params=124,
            energy={"int8": ENERGY},
        ),
    ),
    convention="exact",
    latency=cost.Latency(
        seconds={"float": 0.0123},
        processor="abacus",
        threads=2,
        rounds=5,
        commit="0123456789abcdef",
    ),
)
NOTES = """\
SRAM, DRAM: weights and maps of each layer moved once, 5 and 640 pJ for 4 bytes.
Arithmetic not counted in float: head, conv2d in body.
Latency: median of 5, batch 1, 2 threads, abacus, commit 0123456789ab; float networks in \
PyTorch, quantised ones in the runtime.
""".splitlines()
ROWS = [
    ["input", "3x8x8", "3x8x8"],
    ["#mul", "1 k", "0"],
    ["#add", "2 k", "3 k"],
    ["#xnor", "0", "0"],
    ["#lookup", "64", "0"],
    ["parameters", "123", "124"],
    ["energy fp32", "1 uJ", "-"],
    ["energy fp32 + SRAM", "2 uJ", "-"],
    ["energy fp32 + DRAM", "3 mJ", "-"],
    ["energy int8, sums int32", "1 uJ", "1 uJ"],
    ["energy int8, sums int32 + SRAM", "2 uJ", "2 uJ"],
    ["energy int8, sums int32 + DRAM", "3 mJ", "3 mJ"],
    ["energy int8, sums int8", "1 uJ", "-"],
    ["latency", "12.3 ms", "-"],
]


def test_text() -> None:
    lines = cost.comparison_to_text(COMPARISON).splitlines()
    assert lines[0] == "Cost of one image, exact convention, energy at 45 nm"
    assert lines[2].replace(" ", "") == "||float|a|b\\x1b[31m.mulfree|"
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:18]] == ROWS
    assert lines[19:] == NOTES


def test_markdown_has_the_same_cells() -> None:
    title, empty, head, rules, *rest = cost.comparison_to_markdown(COMPARISON).splitlines()
    assert (title, empty) == ("Cost of one image, exact convention, energy at 45 nm", "")
    assert head == "|  | float | a\\|b\\x1b[31m.mulfree |"
    assert rules == "| --- | ---: | ---: |"
    assert rest[:14] == [f"| {' | '.join(row)} |" for row in ROWS]
    assert [line for line in rest[14:] if line] == NOTES


def test_json_has_every_number_in_full() -> None:
    content = json.loads(cost.comparison_to_json(COMPARISON))
    first, second = content["networks"]
    assert first["cost"] == {
        "mul": 1000, "add": 2000, "shift": 0, "xnor": 0, "compare": 0, "lookup": 64,
    }  # fmt: skip
    assert first["energy"]["fp32"] == {"arithmetic": 1e6, "sram": 2e6, "dram": 3e9}
    assert (second["name"], second["params"]) == ("a|b\x1b[31m.mulfree", 124)
    assert content["latency"]["seconds"] == {"float": pytest.approx(0.0123)}
    assert content["convention"] == "exact"
