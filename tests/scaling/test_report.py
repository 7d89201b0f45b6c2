from __future__ import annotations

from pathlib import Path

from mulfree.models import scale
from mulfree.scaling import Costs, Plan
from mulfree.scaling.report import plan_table, plot, search_table


def cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_plans() -> None:
    costs = Costs(params=272_474, mul_add=40_812_544, additions=81_182_720, energy=74_700_000.0)
    plan = Plan(scaling="width", phi=1.0, scaled=scale("resnet20", 0), costs=costs, measured=0.0125)
    heads, row = cells(plan_table("title", [plan], latency=True))
    assert heads[-2:] == ["energy", "latency"]
    assert row == [
        *("width", "1.000", "1.000", "1.000", "32"),
        *("272.5 k", "40.81 M", "81.18 M", "74.7 uJ", "12.5 ms"),
    ]
    assert "latency" not in plan_table("title", [plan])


def test_the_best_candidate_is_first_and_failures_are_left_out() -> None:
    facts = {
        "alpha": 1.2,
        "beta": 1.1,
        "gamma": 1.15,
        "growth": 1.92,
        "image_size": 36,
        "params": 1000,
        "mul_add": 2_000_000,
        "additions": 4_000_000,
        "energy": 5e6,
    }
    trials = [
        {"candidate": 0, "state": "COMPLETE", "accuracy": 0.5, **facts},
        {"candidate": 1, "state": "FAIL", "accuracy": None},
        {"candidate": 2, "state": "COMPLETE", "accuracy": 0.75, **facts},
    ]
    _, *rows = cells(search_table("title", {"metric": "accuracy", "trials": trials}))
    assert [row[0] for row in rows] == ["2", "0"]
    assert rows[0][1:4] == ["1.200", "1.100", "1.150"]
    assert rows[0][5:] == ["1 k", "2 M", "4 M", "5 uJ", "1.920", "0.7500"]


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    plot({"conv2d": {"$bad_{math": (1.0, 0.5)}}, "cost", "accuracy", path)
    assert path.read_bytes().startswith(b"\x89PNG")
