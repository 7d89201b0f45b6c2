from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accuracy as benchmark
from mulfree.training import TrainConfig
from mulfree.training.methods import kd
from mulfree.training.run.report import METRICS_CSV, METRICS_JSON

RECIPE = "recipes/digits/lenet5_bn_pkkd_plane.yaml"
ROOT = Path(__file__).parents[2]


def finish(output: Path, run: str, test: float, agreement: float | None = None) -> None:
    """Writes what is left of a finished run."""
    directory = output / run
    directory.mkdir()
    results = {"test_accuracy": test}
    if agreement is not None:
        results["test_agreement"] = agreement
    (directory / METRICS_JSON).write_text(json.dumps(results))
    (directory / METRICS_CSV).write_text("epoch,test_accuracy\n1,0.5\n")


def test_the_table_has_means_deviations_and_differences_of_equal_seeds(tmp_path: Path) -> None:
    for run, test in (("seed0", 0.80), ("seed1", 0.84), ("seed10", 0.88)):
        finish(tmp_path, f"convolution-{run}", test)
    finish(tmp_path, "pkkd-both-trained-seed0", 0.83, agreement=0.9)
    finish(tmp_path, "pkkd-both-trained-seed10", 0.86, agreement=0.8)
    finish(tmp_path, "adder-seed7", 0.7)
    (tmp_path / "kd-seed0").mkdir()  # not finished
    assert list(benchmark._table(tmp_path))[2:] == [
        "| convolution | 3 |  | 84.00 % ± 4.00 |  |  |",
        "| adder | 1 |  | 70.00 % |  |  |",
        "| pkkd-both-trained | 2 |  | 84.50 % ± 2.12 | +0.50 % ± 3.54 | 85.00 % ± 7.07 |",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipes/digits/lenet5_bn_conv2d.yaml"], "`recipe` must be of pkkd, got supervised"),
        (
            [RECIPE, "--", "--method.teacher", "runs/cnn"],
            "`method.teacher` must be left out, got runs/cnn",
        ),
        ([RECIPE, "--", "--method.beta", "-1"], "`beta` must be at least 0, got -1.0"),
    ],
)
def test_refuses_a_recipe_it_cannot_compare(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["accuracy.py", "--output", str(tmp_path), *words])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_network_of_a_seed_and_the_trained_teacher_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, TrainConfig] = {}

    def trained(config: TrainConfig, directory: Path) -> dict[str, Any]:
        assert directory.parent == tmp_path
        seen[directory.name] = config
        finish(tmp_path, directory.name, 0.5)
        return {}

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(benchmark, "trained", trained)
    words = ["--networks", "kd", "adder", "--seeds", "3", "--", "--trainer.epochs", "5"]
    monkeypatch.setattr("sys.argv", ["accuracy.py", RECIPE, "--output", str(tmp_path), *words])
    benchmark.main()
    assert list(seen) == ["convolution-seed3", "kd-seed3", "adder-seed3"]
    assert {(run.trainer.epochs, run.trainer.seed) for run in seen.values()} == {(5, 3)}
    assert [run.model.operator for run in seen.values()] == ["conv2d", "adder2d", "adder2d"]
    assert [run.method.name for run in seen.values()] == ["supervised", "kd", "supervised"]
    method = seen["kd-seed3"].method
    assert isinstance(method, kd.Config)
    assert method.teacher == str(tmp_path / "convolution-seed3")
    assert "| kd | 1 |  | 50.00 % | +0.00 % |  |" in capsys.readouterr().out
    benchmark.main()
    assert len(seen) == 3
