from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import dynamic_resolution as benchmark
from mulfree.training import TrainConfig
from mulfree.training.run.report import METRICS_JSON


def test_runs_in_their_order_and_the_table_of_finished_ones(tmp_path: Path) -> None:
    arguments = argparse.Namespace(
        output=tmp_path,
        network="resnet20",
        operator="conv2d",
        width=0.125,
        resolutions=[8, 4],
        alphas=[0.75],
        eta=0.2,
        epochs=[3, 4],
        seeds=[1],
    )
    runs = dict(benchmark.runs(arguments, 1))
    names = ["static-8-seed1", "static-4-seed1", "pretrain-seed1", "dynamic-0.75-seed1"]
    assert list(runs) == names
    assert "--trainer.epochs=7" in runs["static-8-seed1"]
    assert {"--method.phase=pretrain", "--trainer.epochs=3"} <= set(runs["pretrain-seed1"])
    start = f"--model.pretrained={tmp_path / 'pretrain-seed1'}"
    assert {start, "--method.alpha=0.75"} <= set(runs["dynamic-0.75-seed1"])
    (tmp_path / "static-4-seed1").mkdir()
    (tmp_path / "static-4-seed1" / METRICS_JSON).write_text(json.dumps({"test_accuracy": 0.5}))
    *_, line = benchmark.table(arguments)
    assert line.startswith("| static-4-seed1 | 50.00% |")


def test_every_run_is_trained_with_the_words_after_the_dashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, TrainConfig] = {}

    def trained(config: TrainConfig, directory: Path) -> dict[str, Any] | None:
        seen[directory.name] = config
        return None if "pretrain" in directory.name else {}

    monkeypatch.setattr(benchmark, "trained", trained)
    words = ["--output", str(tmp_path), "--resolutions", "8", "--seeds", "4", "--"]
    more = ["--data.name=synthetic", "--optimizer.lr", "0.5"]
    monkeypatch.setattr("sys.argv", ["dynamic_resolution.py", *words, *more])
    with pytest.raises(SystemExit, match="pretrain-seed4 was stopped; run the same command"):
        benchmark.main()
    assert list(seen) == ["static-8-seed4", "pretrain-seed4"]
    for config in seen.values():
        assert (config.data.name, config.optimizer.lr, config.trainer.seed) == ("synthetic", 0.5, 4)
    monkeypatch.setattr("sys.argv", ["dynamic_resolution.py", *words, "--optimizer.lr=-1"])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert "`lr` must be" in capsys.readouterr().err
