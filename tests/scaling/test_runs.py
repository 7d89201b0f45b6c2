"""Runs of scaled networks in directories, with real trainings of a step or two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mulfree import data, models
from mulfree.errors import ArtifactError, ConfigError
from mulfree.scaling import runs
from mulfree.training import NetworkConfig, TrainConfig, TrainerConfig, load_model
from mulfree.training.run.report import METRICS_CSV, METRICS_JSON

CONFIG = TrainConfig(
    model=NetworkConfig(
        name="resnet20",
        operator="adder2d",
        options={"depth": 1 / 3, "width": 0.125, "channel_divisor": 1},
    ),
    data=data.DataConfig(
        name="synthetic", image_size=8, classes=2, limit=8, batch_size=8, validation=0.02
    ),
    trainer=TrainerConfig(epochs=1, progress="none", tensorboard=False),
)


def test_sizes_of_the_data_reach_the_network() -> None:
    digits = replace(CONFIG, data=data.DataConfig(name="digits"))
    config, options, splits = runs.sized(digits)
    assert config.data.image_size == options["base_size"] == splits.image_size == 8
    assert (options["in_channels"], options["num_classes"]) == (1, 10)
    assert (options["operator"], options["width"]) == ("adder2d", 0.125)


def test_only_network_and_images_are_scaled() -> None:
    _, options, _ = runs.sized(CONFIG)
    scaled = models.scale("resnet20", 1, 2, 1.5, 1.25, **options)
    config = runs.scaled_config(CONFIG, scaled)
    assert config.model.options == {"depth": 2 / 3, "width": 0.1875, "channel_divisor": 1}
    assert config.data.image_size == 10
    assert replace(config, model=CONFIG.model, data=CONFIG.data) == CONFIG


def test_a_finished_run_is_read_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    results = runs.trained(CONFIG, directory)
    assert results is not None
    assert 0 <= results["validation_accuracy"] <= 1
    assert results["epochs"] == 1
    assert load_model(directory / "last.ckpt") is not None
    monkeypatch.setattr(runs, "train", None)
    assert runs.trained(CONFIG, directory) == results
    other = replace(CONFIG, trainer=replace(CONFIG.trainer, seed=3))
    with pytest.raises(ConfigError, match=r"`trainer.seed` must be 0 as in the run in .*, got 3"):
        runs.trained(other, directory)
    for name, content in ((METRICS_CSV, ""), (METRICS_JSON, "[" * 100_000)):
        (directory / name).write_text(content)
        with pytest.raises(ArtifactError, match="must hold the results of a run, got damaged fil"):
            runs.trained(CONFIG, directory)
