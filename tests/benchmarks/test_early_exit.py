from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import make_config

from benchmarks import early_exit as benchmark
from benchmarks import early_exit_runtime

MODEL: dict[str, Any] = {
    "name": "early_exit",
    "operator": "conv2d",
    "options": {"width": 0.125, "network": "resnet20", "network_options": {"blocks": [1, 1, 1]}},
}


def run(monkeypatch: pytest.MonkeyPatch, recipe: Path, output: Path, *words: str) -> None:
    given = [str(recipe), "--output", str(output), "--blocks", "1", "--lost", "0", "50"]
    small = ["--calibration", "64", "--timed", "2", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["early_exit.py", *given, *small, *words])
    benchmark.main()


def recipe(tmp_path: Path, **sections: Any) -> Path:
    given = {
        "model": MODEL,
        "method": {"name": "early_exit"},
        "data": {"validation": 0.25},
        "trainer": {"epochs": 1},
        **sections,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(make_config(**given).to_yaml())
    return path


def test_a_curve_and_its_static_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, recipe(tmp_path), tmp_path / "out")
    capsys.readouterr()
    # What is there is not trained again.
    weights = tmp_path / "out/blocks1-seed0/model.safetensors"
    before = weights.stat().st_mtime_ns
    run(monkeypatch, recipe(tmp_path), tmp_path / "out")
    assert weights.stat().st_mtime_ns == before
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert [row["network"] for row in rows] == ["early_exit", "early_exit", "blocks1"]
    assert [row.get("lost") for row in rows] == [0.0, 50.0, None]
    assert rows[1]["additions"] <= rows[0]["additions"]
    # Up to the last exit there are the further exits.
    assert rows[2]["additions"] < 1.2 * max(row["additions"] for row in rows)
    for row in rows:
        assert 0 <= row["accuracy"] <= 1
        assert row["milliseconds"] > 0
    lines = (tmp_path / "out/table.md").read_text().splitlines()
    assert len(lines) == 5
    assert capsys.readouterr().out.endswith("\n".join(lines) + "\n")
    for plot in benchmark.PLOTS.values():
        assert (tmp_path / "out" / plot).exists()


def test_the_static_network_is_the_one_inside() -> None:
    config = make_config(model=MODEL, method={"name": "early_exit", "label_smoothing": 0.1})
    made = benchmark.static(config, 2)
    assert made.model.name == "resnet20"
    assert made.model.options == {"width": 0.125, "blocks": [2, 2, 2]}
    assert (made.method.name, made.method.label_smoothing) == ("supervised", 0.1)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"validation": 0.0}}, "`data.validation` must hold out images"),
        (
            {"model": {"options": {}}, "method": {"name": "supervised"}},
            "`recipe` must be of model and method early_exit, got lenet5_bn",
        ),
    ],
)
def test_other_recipes(
    sections: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, recipe(tmp_path, **sections), tmp_path / "out")
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_cost_of_exits_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--networks", "resnet20", "--operators", "conv2d", "--batches", "1", "--threads", "1"]
    more = ["--rounds", "1", "--width", "0.125", "--output", str(tmp_path / "r.json")]
    monkeypatch.setattr("sys.argv", ["early_exit_runtime.py", *words, *more])
    early_exit_runtime.main()
    (row,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert row["ratio"] > 0
    assert "without exits" in capsys.readouterr().out
