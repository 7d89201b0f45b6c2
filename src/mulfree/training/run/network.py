"""Network and method of a run, built from its configuration for its data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mulfree import data, models
from mulfree.errors import ConfigError, quoted
from mulfree.models.claims import blueprint
from mulfree.tasks import get_task
from mulfree.training.method import TrainingMethod
from mulfree.training.methods import get_method
from mulfree.training.run.checkpoint import Checkpoint, check_network, incomplete
from mulfree.training.run.config import TrainConfig
from mulfree.training.run.pretrained import load_pretrained


def build_method(
    config: TrainConfig, splits: data.DataSplits, *, resumed: bool = False
) -> TrainingMethod:
    """Return the method of a configuration, with a network for the data.

    Args:
        config: The run.
        splits: Its data.
        resumed: Whether a checkpoint follows, which replaces the pretrained weights.

    Raises:
        ConfigError: The configuration does not fit the data or the pretrained weights.
        ArtifactError: The file of the pretrained weights is missing or damaged.
    """
    network, pretrained = _network(config, splits), config.model.pretrained
    if pretrained is not None and not resumed:
        load_pretrained(network, pretrained, config.model.pretrained_exclude)
    elif pretrained is None and config.method.needs_pretrained:
        raise ConfigError(
            f"train: `model.pretrained` must be given for method {config.method.name}, got None"
        )
    return get_method(config.method.name)(network, config.method, get_task(config.task.name))


def _network(config: TrainConfig, splits: data.DataSplits) -> nn.Module:
    options: dict[str, Any] = dict(config.model.options)
    own = get_task(config.task.name).targets.model_arguments(splits.classes)
    for name in ("name", "operator", *own, "in_channels"):
        if name in options:
            raise ConfigError(
                f"train: `model.options` must leave `{name}` to its own option or to the data, "
                f"got {quoted(options[name])}"
            )
    model = models.create_model(
        config.model.name,
        operator=config.model.operator,
        in_channels=splits.in_channels,
        **own,
        **options,
    )
    models.set_images(model, image_spec(config.data.name, splits))
    return model


def check_model(config: TrainConfig, splits: data.DataSplits, resume: Checkpoint) -> None:
    """Refuse a checkpoint of another network than the configured one, before that is built.

    Raises:
        ArtifactError: They differ.
    """
    check_network(resume)
    with torch.device("meta"):
        wanted = models.config_of(_network(config, splits))
    own = models.config_of(blueprint(resume.model_config))
    if (own.name, own.arguments) != (wanted.name, wanted.arguments):
        raise incomplete(resume.path, ValueError("its network is not that of its configuration"))


def image_spec(name: str, splits: data.DataSplits) -> models.ImageSpec:
    """Return the record of the data set called `name`, for files of a network trained on it."""
    return models.ImageSpec(
        size=(splits.in_channels, splits.image_size, splits.image_size),
        mean=splits.mean,
        std=splits.std,
        resize=max(splits.image_size, min(splits.test.images.shape[2:])),
        classes=splits.classes,
        data=name,
    )
