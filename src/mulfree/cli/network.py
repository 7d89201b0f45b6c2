"""Networks in files and the data they were trained on."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mulfree.cli.arguments import Parser, positive
from mulfree.errors import MAX_MESSAGE, ConfigError, MulfreeError, printable, quoted
from mulfree.files import check_regular

if TYPE_CHECKING:
    from torch import nn

    from mulfree.data import DataConfig, DataSplits
    from mulfree.runtime import Graph
    from mulfree.training import Checkpoint, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network and its data.

    Attributes:
        model: The network, on the CPU and in evaluation mode.
        data: Configuration of the training data, or of the data set of the options.
        checkpoint: The checkpoint, if it was not a file of weights.
    """

    model: nn.Module
    data: DataConfig
    checkpoint: Checkpoint | None


def add_data_options(parser: Parser) -> None:
    """Add the options of the data set, its place and the batch size."""
    parser.add_argument("--data.name", dest="data_name", metavar="NAME", help="another data set")
    parser.add_argument("--data.root", dest="data_root", metavar="PATH", help="where the data is")
    parser.add_argument("--data.cache", dest="data_cache", metavar="PATH", help="decoded images")
    parser.add_argument(
        "--data.eval_batch_size",
        dest="data_eval_batch_size",
        metavar="N",
        type=positive,
        help="images at a time",
    )


def load_splits(
    command: str, trained: Trained, arguments: Namespace
) -> tuple[DataConfig, DataSplits]:
    """Load the data of a network, with the options of `add_data_options`.

    Raises:
        ConfigError: The data has another number of classes or channels than the network.
    """
    from mulfree import data, models
    from mulfree.training.run.progress import decoding

    given = {
        "root": arguments.data_root,
        "cache": arguments.data_cache,
        "eval_batch_size": arguments.data_eval_batch_size,
    }
    options = {key: value for key, value in given.items() if value is not None}
    config = replace(trained.data, **options)
    with decoding(show=True) as report:
        splits = data.load(config, report)
    network = models.config_of(trained.model).arguments
    for key in ("num_classes", "in_channels"):
        if network[key] != getattr(splits, key):
            raise ConfigError(
                f"{command}: `--data.name` must be a data set with {key} {network[key]} as the "
                f"network has it, got {config.name} with {getattr(splits, key)}"
            )
    return config, splits


def load_trained(command: str, path: str | Path, data_name: str | None) -> Trained:
    """Load the network of a .ckpt or .safetensors file, or of a run's directory.

    If the method of a run keeps state beside the network (qat), its last checkpoint is read.

    Raises:
        ArtifactError: No such file, or one that is damaged.
        ConfigError: It is not known which data to use, or the task is not classification.
    """
    from mulfree import data
    from mulfree.tasks import DEFAULT
    from mulfree.training.run.checkpoint import LAST, WEIGHTS, file_of
    from mulfree.training.run.directory import CONFIG

    file = file_of(path, WEIGHTS)
    config, last = _config_beside(file), file.with_name(LAST)
    if file.name == WEIGHTS and config and config.method.keeps_state and last.exists():
        file = last
    model, checkpoint = _load(file)
    if checkpoint is not None:
        config = checkpoint.config
    if config is not None and config.task.name != DEFAULT:
        raise ConfigError(
            f"{command}: the run must have the task {DEFAULT}, got {quoted(config.task.name)}"
        )
    if config is None and data_name is None:
        raise ConfigError(
            f"{command}: `--data.name` must be given, as there is no {CONFIG} next to {file}"
        )
    if config is None or data_name not in (None, config.data.name):
        chosen = data.DataConfig(name=str(data_name))
    else:
        chosen = config.data
    return Trained(model=model, data=chosen, checkpoint=checkpoint)


def _load(file: Path) -> tuple[nn.Module, Checkpoint | None]:
    """The network of a file, and the checkpoint if it is one."""
    from mulfree import training

    if file.suffix == ".safetensors":
        return training.load_model(file), None
    checkpoint = training.load_checkpoint(file)
    return training.model_of(checkpoint), checkpoint


def _config_beside(file: Path) -> TrainConfig | None:
    """The configuration next to weights of a run; a checkpoint has its own."""
    from mulfree import training
    from mulfree.training.run.directory import CONFIG

    beside = file.with_name(CONFIG)
    if file.suffix != ".safetensors" or not beside.exists():
        return None
    # Absolute: the path is expanded already, a `~` in it is part of a name.
    return training.read_config(["--config", str(beside.absolute())])


def load_any(
    path: Path, *, images_for: str | None = None, depth: str | None = None
) -> nn.Module | Graph:
    """Load the quantised network of an artifact, or the float one of anything else.

    Args:
        path: The file, or a run's directory.
        depth: Name of a sub-net to extract, or of the entry point of an artifact.
        images_for: Command that needs the image size of a float network. Runs of earlier versions
            did not record it: their data set is read. A data set that is missing is one line on
            standard error.

    Raises:
        ArtifactError: No such file, or one that is damaged.
        ConfigError: There is no such depth, or the network has one alone.
    """
    from mulfree import runtime

    weights = path.suffix == ".safetensors" and not _holds_graph(path)
    if not (path.is_dir() or path.suffix == ".ckpt" or weights):
        return runtime.load(path, depth)
    # Imported late: only float networks need Lightning.
    from mulfree import models
    from mulfree.training.run.checkpoint import WEIGHTS, file_of

    file = file_of(path, WEIGHTS)
    model, checkpoint = _load(file)
    if images_for is not None and models.config_of(model).images is None:
        config = checkpoint.config if checkpoint else _config_beside(file)
        if config is not None:
            _recall_images(images_for, model, config.data)
    if depth is None:
        return model
    if not isinstance(model, models.DepthDynamicNetwork):
        raise ConfigError(
            f"export: `--depth` must be left out for a network of one depth, got {quoted(depth)}"
        )
    return model.extract(depth)


def _recall_images(command: str, model: nn.Module, config: DataConfig) -> None:
    """Complete a network's configuration by the images of its data set, or warn."""
    from mulfree import data, models
    from mulfree.training.run.network import image_spec

    try:
        models.set_images(model, image_spec(config.name, data.load(config)))
    except (MulfreeError, OSError) as error:
        size = models.input_size(model)
        print(
            printable(
                f"mulfree {command}: warning: the image size is taken to be {size}, as the data of "
                f"the run cannot be read: {error}",
                MAX_MESSAGE,
            ),
            file=sys.stderr,
        )


def _holds_graph(path: Path) -> bool:
    """True for an artifact; weights have the layout of safetensors too."""
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path)
        with safe_open(path, framework="np") as file:
            return "mulfree" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def kind_of(model: nn.Module) -> str:
    """Names of a network and its operator."""
    from mulfree import models

    config = models.config_of(model)
    return f"{config.name} {config.arguments['operator']}"
