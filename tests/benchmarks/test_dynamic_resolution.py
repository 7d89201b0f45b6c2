from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import dynamic_resolution as benchmark
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
