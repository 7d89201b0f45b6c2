from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compound_scaling as benchmark
from mulfree.models import scale
from mulfree.scaling import Costs, Plan
from mulfree.training import TrainConfig

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes/digits/lenet5_bn_conv2d.yaml")
COSTS = Costs(params=100, mul_add=1_000_000, additions=2_000_000, energy=5e6)


def test_every_network_is_trained_with_both_operators_and_all_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, int, str]] = []

    def trained(config: TrainConfig, directory: Path) -> dict[str, Any]:
        assert directory.name.endswith(f"{config.model.operator}-seed{config.trainer.seed}")
        seen.append((config.model.operator, config.trainer.seed, directory.name.split("-")[0]))
        accuracy = 0.5 + 0.1 * config.trainer.seed
        return {"test_accuracy": accuracy, "steps": 3, "seconds": 1.0, "environment": {}}

    def plans(name: str, *arguments: object, **options: Any) -> dict[str, Plan]:
        scaled = scale(name, 1, **options)
        return {"depth": Plan(scaling="depth", phi=1, scaled=scaled, costs=COSTS, measured=1)}

    monkeypatch.setattr(benchmark, "trained", trained)
    monkeypatch.setattr(benchmark, "equal_cost", plans)
    monkeypatch.setattr(benchmark, "costs_of", lambda scaled: COSTS)
    words = [RECIPE, "--output", str(tmp_path), "--seeds", "0", "1", "--", "--model.name=resnet20"]
    monkeypatch.setattr("sys.argv", ["compound_scaling.py", *words])
    benchmark.main()
    assert seen == [
        (operator, seed, network)
        for seed in (0, 1)
        for network in ("baseline", "depth")
        for operator in ("conv2d", "adder2d")
    ]
    rows = (tmp_path / "table.md").read_text().splitlines()[2:]
    assert capsys.readouterr().out.endswith("\n".join(rows) + "\n")
    assert rows[0] == (
        "| adder2d | baseline | 1.00 | 1.00 | 8 | 100 | 1.00 M | 2.00 M | 5.00 uJ "
        "| 55.00 % ± 7.07 | 2 |"
    )
    assert len(rows) == 4
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["config"]["model"]["name"] == "resnet20"
    assert len(content["runs"]) == 8
    assert (tmp_path / "accuracy.png").exists()


def test_a_network_that_cannot_be_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["compound_scaling.py", RECIPE, "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert "must be a network with the options depth" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
