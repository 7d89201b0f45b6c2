"""Training runs of scaled networks, each in a directory of its own and resumable."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mulfree import data
from mulfree.errors import ArtifactError, ConfigError, quoted
from mulfree.files import read_regular
from mulfree.models import ScaledModel
from mulfree.models.scaling import MULTIPLIERS
from mulfree.tasks import get_task
from mulfree.training import TrainConfig, load_checkpoint, read_config, train
from mulfree.training.run.checkpoint import LAST
from mulfree.training.run.config import leaves
from mulfree.training.run.directory import CONFIG, FREE_ON_RESUME
from mulfree.training.run.report import METRICS_CSV, METRICS_JSON

_MAX_BYTES = 2**24


def sized(config: TrainConfig) -> tuple[TrainConfig, dict[str, Any], data.DataSplits]:
    """Load the data of a run for its sizes.

    Returns:
        The configuration with the side of the images in it, the arguments of `models.scale` for
        its network, and the data.

    Raises:
        ConfigError: An option does not fit the data set.
        DataError: The data set is not found.
        ArtifactError: A file of the data set is damaged.
    """
    splits = data.load(config.data)
    options = {
        "operator": config.model.operator,
        "in_channels": splits.in_channels,
        **get_task(config.task.name).targets.model_arguments(splits.classes),
        **config.model.options,
        "base_size": splits.image_size,
    }
    images = replace(config.data, image_size=splits.image_size)
    return replace(config, data=images), options, splits


def scaled_config(config: TrainConfig, scaled: ScaledModel) -> TrainConfig:
    """Configuration of the same run with a scaled network and images of its size."""
    own = {name: scaled.options[name] for name in MULTIPLIERS}
    model = replace(config.model, options={**config.model.options, **own})
    images = replace(config.data, image_size=scaled.image_size)
    return replace(config, model=model, data=images)


def trained(config: TrainConfig, directory: Path) -> dict[str, Any] | None:
    """Train in a directory, go on with the run there, or read the results of a finished one.

    Returns:
        Content of metrics.json, and the metrics of the last epoch under their names in metrics.csv;
        None if the run was stopped and can be resumed.

    Raises:
        ConfigError: The directory holds a run of another configuration.
        ArtifactError: Its results are damaged.
        TrainingError: The run cannot continue.
        OSError: A file cannot be written.
    """
    config = replace(config, trainer=replace(config.trainer, output=str(directory)))
    if not (directory / METRICS_JSON).exists():
        last = directory / LAST
        result = train(config, load_checkpoint(last) if last.exists() else None)
        if not result.finished:
            return None
    _check_same(config, directory)
    return _results(directory)


def _check_same(config: TrainConfig, directory: Path) -> None:
    there = dict(leaves(read_config(["--config", str(directory / CONFIG)]).to_dict()))
    for name, value in leaves(config.to_dict()):
        if name not in FREE_ON_RESUME and there.get(name) != value:
            raise ConfigError(
                f"scale: `{name}` must be {quoted(there.get(name))} as in the run in {directory}, "
                f"got {quoted(value)}"
            )


def _results(directory: Path) -> dict[str, Any]:
    try:
        results = json.loads(read_regular(directory / METRICS_JSON, _MAX_BYTES))
        lines = read_regular(directory / METRICS_CSV, _MAX_BYTES).decode().splitlines()
        *_, last = csv.DictReader(lines)
        return {**results, **{name: float(value) for name, value in last.items()}}
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"scale: {directory} must hold the results of a run, got damaged files"
        ) from error
