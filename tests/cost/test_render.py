from __future__ import annotations

import dataclasses
import json

import pytest
from torch import nn

from mulfree import cost
from mulfree import nn as mnn
from mulfree.cost.table import scaled
from mulfree.opcounts import OpCounts


@pytest.fixture
def profile() -> cost.Profile:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    model = nn.Sequential(
        conv,
        nn.BatchNorm2d(4),
        mnn.Adder2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.PReLU(),
    )
    model.append(model[2])
    return cost.count(model, (3, 8, 8), normalisation=True, name="tiny")


TEXT = """\
tiny, input 3x8x8, fp32, exact convention, including normalisation
+-----------------+----------+--------+---------+---------+-------+--------+----------+----------+
| layer           | operator | output |    #mul |    #add | #xnor | params |    bytes |   energy |
+-----------------+----------+--------+---------+---------+-------+--------+----------+----------+
| 0               | conv2d   | 4x8x8  | 6.912 k | 6.912 k |     0 |    112 | 1.472 kB |  31.8 nJ |
| 2               | adder2d  | 4x8x8  |       0 | 18.43 k |     0 |    144 |   1.6 kB | 16.59 nJ |
| 2 (call 2)      | adder2d  | 4x8x8  |       0 | 18.43 k |     0 |      0 | 1.024 kB | 16.59 nJ |
| 2 x BatchNorm2d |          |        |     512 |     512 |     0 |     16 | 2.112 kB | 2.355 nJ |
| 1 x PReLU       |          |        |       0 |       0 |     0 |      1 | 1.028 kB |     0 pJ |
+-----------------+----------+--------+---------+---------+-------+--------+----------+----------+
| total           |          |        | 7.424 k | 44.29 k |     0 |    273 | 7.236 kB | 67.33 nJ |
+-----------------+----------+--------+---------+---------+-------+--------+----------+----------+
Arithmetic not counted, no operator declares it: 1 x PReLU.
"""


def test_text(profile: cost.Profile) -> None:
    assert cost.to_text(profile) == TEXT


def test_markdown_has_the_title_the_cells_and_the_notes_of_the_text(profile: cost.Profile) -> None:
    def cells(line: str) -> str:
        return " | ".join(cell.strip() for cell in line.split("|")).strip()

    title, *table, note = (line for line in TEXT.splitlines() if line[0] != "+")
    rules = "| --- | --- | --- |" + " ---: |" * 6
    rows = [cells(line) for line in table]
    expected = [title, "", rows[0], rules, *rows[1:], "", note]
    assert cost.to_markdown(profile).splitlines() == expected


def test_notes_of_what_was_not_called_and_of_functions(profile: cost.Profile) -> None:
    functions = tuple(
        cost.FunctionProfile(function="conv2d", module=f"body.{index}" if index else "", calls=3)
        for index in range(2)
    )
    names = tuple(f"head{index}\x1b[31m" for index in range(10))
    profile = dataclasses.replace(profile, functions=functions, uncalled=names)
    notes = cost.to_text(profile).splitlines()[-2:]
    assert notes == [
        "Arithmetic not counted, done by functions: 3 x conv2d, 3 x conv2d in body.1.",
        "Parameters, but never called: "
        + ", ".join(f"head{index}\\x1b[31m" for index in range(8))
        + " and 2 more.",
    ]
    assert [line for line in cost.to_markdown(profile).splitlines() if line in notes] == notes
    content = json.loads(cost.to_json(profile))
    assert content["functions"][1] == {"function": "conv2d", "module": "body.1", "calls": 3}
    assert content["uncalled"] == list(names)


def test_a_model_that_is_one_layer_goes_by_its_name() -> None:
    profile = cost.count(nn.Linear(3, 2), (3,))
    assert "| Linear | conv2d   | 2      |    6 |" in cost.to_text(profile)


def test_json_has_every_number_in_full(profile: cost.Profile) -> None:
    content = json.loads(cost.to_json(profile))
    assert content["model"] == "tiny"
    assert content["input_size"] == [3, 8, 8]
    assert content["total"]["add"] == 6912 + 2 * 18432 + 512
    assert content["total"]["energy"] == pytest.approx(67328.0)
    assert content["layers"][0] == {
        "name": "0",
        "kind": "Conv2d",
        "operator": "conv2d",
        "call": 0,
        "input_shape": [1, 3, 8, 8],
        "output_shape": [1, 4, 8, 8],
        "cost": {"mul": 6912, "add": 6912, "xnor": 0},
        "accumulations": 6912,
        "params": 112,
        "weight_bytes": 448,
        "activation_bytes": 1024,
        "traffic_bytes": 448 + 768 + 1024,
        "energy": pytest.approx(31795.2),
        "counted": True,
    }


def test_other_kinds_of_operations_have_a_column_where_there_are_any(profile: cost.Profile) -> None:
    counts = profile.total.cost + OpCounts(shift=5)
    profile = dataclasses.replace(profile, total=dataclasses.replace(profile.total, cost=counts))
    assert "| #mul | #add | #shift | #xnor | params |" in cost.to_markdown(profile)
    content = json.loads(cost.to_json(profile))
    assert list(content["total"])[:4] == ["mul", "add", "shift", "xnor"]
    assert content["layers"][0]["cost"] == {"mul": 6912, "add": 6912, "shift": 0, "xnor": 0}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (999_960, "1 M"), (69_124_736, "69.12 M")],
)
def testscaled(value: int, text: str) -> None:
    assert scaled(value) == text


def testscaled_with_a_unit() -> None:
    assert scaled(12, unit="B") == "12 B"
    assert scaled(0.06, unit="J", start="p") == "0.06 pJ"
    assert scaled(7.5e12, unit="J", start="p") == "7.5 J"
    assert scaled(1e28, unit="J", start="p") == "10 PJ"
