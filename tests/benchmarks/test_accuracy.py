from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import accuracy as benchmark
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
