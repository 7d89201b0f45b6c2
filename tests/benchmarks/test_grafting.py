from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import grafting as benchmark
from mulfree.training import TrainConfig
from mulfree.training.methods import graft, kd

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes/cifar10/resnet20_graft.yaml")


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["grafting.py", *words])
    benchmark.main()


def test_every_student_is_trained_with_every_number_of_images_and_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[Any, ...]] = []

    def trained(config: TrainConfig, directory: Path) -> dict[str, Any]:
        images, method = config.data, config.method
        if directory.name == "teacher":
            assert config.method.name == "supervised"
        else:
            assert isinstance(method, (graft.Config, kd.Config))
            assert method.teacher == str(tmp_path / "teacher")
            assert config.trainer.seed == images.subset_seed
            assert images.per_class is not None
            assert images.per_class * images.repeat == 480
            seen.append((directory.name, images.per_class, images.subset_seed, method.name))
        return {
            "test_accuracy": 0.5 + 0.1 * config.trainer.seed,
            "test_teacher_accuracy": 0.9,
            "test_agreement": 0.75,
            "parameters": 70_000,
            "steps": 600,
            "seconds": 1.0,
            "environment": {},
        }

    monkeypatch.setattr(benchmark, "trained", trained)
    own = ["--students", RECIPE, "--shots", "1", "5", "--draws", "0", "1"]
    call(monkeypatch, "--output", str(tmp_path), *own)
    assert seen == [
        (f"resnet20_graft-{method}-{shots}-draw{draw}", shots, draw, method)
        for draw in (0, 1)
        for shots in (1, 5)
        for method in ("graft", "kd")
    ]
    rows = (tmp_path / "table.md").read_text().splitlines()[2:]
    assert capsys.readouterr().out.endswith("\n".join(rows) + "\n")
    assert len(rows) == 4
    assert rows[0] == (
        "| resnet20_graft | 70,000 | 1 | graft | 55.00 % ± 7.07 | 75.00 % ± 0.00 | 90.00 % | 2 |"
    )
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["students"]["resnet20_graft"]["model"]["options"]["width"] == 0.5
    assert len(content["runs"]) == 8


@pytest.mark.slow
def test_two_steps_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ["--output", str(tmp_path), "--students", RECIPE, "--shots", "1", "--draws", "3"]
    recipe = tmp_path / "teacher.yaml"
    small = "name: synthetic\n  classes: 10\n  image_size: 8\n  limit: 32\n  batch_size: 32"
    recipe.write_text(
        f"data:\n  {small}\n"
        "model:\n  name: resnet20\n  operator: conv2d\n  options:\n    width: 0.25\n"
        "    blocks: [1, 1, 1]\ntrainer:\n  epochs: 1\n  tensorboard: false\n  accelerator: cpu\n"
    )
    options = ["--data.name=synthetic", "--data.classes=10", "--data.image_size=8"]
    options += ["--data.batch_size=10", "--data.per_class=1", "--data.repeat=2"]
    options += ["--model.options={width: 0.125, blocks: [1, 1, 1]}", "--trainer.epochs=1"]
    options += ["--trainer.tensorboard=false", "--trainer.accelerator=cpu"]
    words = [*own, "--teacher-recipe", str(recipe), "--methods", "graft", "--", *options]
    call(monkeypatch, *words)
    (run,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert (run["steps"], run["shots"], run["draw"]) == (2, 1, 3)
    before = (tmp_path / "resnet20_graft-graft-1-draw3" / "last.ckpt").stat().st_mtime_ns
    call(monkeypatch, *words)
    after = (tmp_path / "resnet20_graft-graft-1-draw3" / "last.ckpt").stat().st_mtime_ns
    assert after == before


def test_a_recipe_of_another_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, "--output", str(tmp_path), "--students", str(benchmark.TEACHER))
    assert "must be recipes of graft with data.per_class, got resnet20_conv2d_15ep" in (
        capsys.readouterr().err
    )
