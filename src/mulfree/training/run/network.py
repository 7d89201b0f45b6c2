"""Network and method of a run, built from its configuration for its data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mulfree import data, models
from mulfree.errors import ConfigError, quoted
from mulfree.models.claims import blueprint
from mulfree.training.methods import get_method
from mulfree.training.run.checkpoint import Checkpoint, check_network, incomplete
from mulfree.training.run.config import TrainConfig
from mulfree.training.task import TrainingTask


def build_task(config: TrainConfig, splits: data.DataSplits) -> TrainingTask:
    """The task of a configuration, with a fresh network for the data."""
    return get_method(config.method.name).Task(_network(config, splits), config.method)


def _network(config: TrainConfig, splits: data.DataSplits) -> nn.Module:
    options: dict[str, Any] = dict(config.model.options)
    for name in ("name", "operator", "num_classes", "in_channels"):
        if name in options:
            raise ConfigError(
                f"train: `model.options` must leave `{name}` to its own option or to the data, "
                f"got {quoted(options[name])}"
            )
    model = models.create_model(
        config.model.name,
        operator=config.model.operator,
        num_classes=splits.num_classes,
        in_channels=splits.in_channels,
        **options,
    )
    models.set_images(model, image_spec(config.data.name, splits))
    return model


def check_recipe(config: TrainConfig, splits: data.DataSplits, resume: Checkpoint) -> None:
    """Refuse a checkpoint of another network than the configuration's, before that is built.

    Raises:
        ArtifactError: They differ.
    """
    check_network(resume)
    with torch.device("meta"):
        recipe = models.config_of(_network(config, splits))
    own = models.config_of(blueprint(resume.recipe))
    if (own.name, own.arguments) != (recipe.name, recipe.arguments):
        raise incomplete(resume.path, ValueError("its network is not that of its configuration"))


def image_spec(name: str, splits: data.DataSplits) -> models.ImageSpec:
    """Record, for the files of a network, of the data set called `name` that it is trained on."""
    return models.ImageSpec(
        size=(splits.in_channels, splits.image_size, splits.image_size),
        mean=splits.mean,
        std=splits.std,
        resize=max(splits.image_size, min(splits.test.images.shape[2:])),
        classes=splits.classes,
        data=name,
    )
