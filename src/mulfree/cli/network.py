"""The network of a file, with the data it was trained on, for the verbs that take one."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mulfree.cli.arguments import Parser, positive
from mulfree.errors import MAX_MESSAGE, ConfigError, MulfreeError, printable
from mulfree.files import check_regular

if TYPE_CHECKING:
    from torch import nn

    from mulfree.data import DataConfig, DataSplits
    from mulfree.runtime import Graph
    from mulfree.training import Checkpoint, TrainConfig

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What was read.

    Attributes:
        model: The network, on the CPU and in evaluation mode.
        data: The data that it was trained with, or that was asked for.
        checkpoint: The checkpoint, if it was not a file of weights.
    """

    model: nn.Module
    data: DataConfig
    checkpoint: Checkpoint | None


def add_data_options(parser: Parser) -> None:
    """The options that say which data, where it is and how many images at a time."""
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


def asked(config: DataConfig, arguments: Namespace) -> DataConfig:
    """The data with what the options of `add_data_options` say of it."""
    given = {
        "root": arguments.data_root,
        "cache": arguments.data_cache,
        "eval_batch_size": arguments.data_eval_batch_size,
    }
    return replace(config, **{key: value for key, value in given.items() if value is not None})


def read(verb: str, path: str | Path, data_name: str | None) -> Trained:
    """The network of a .ckpt or .safetensors file, or of a run's directory.

    Of a run whose method keeps more than the network (qat) it is the last checkpoint that is read.

    Raises:
        ArtifactError: No such file, or one that is damaged.
        ConfigError: It is not known which data to use.
    """
    from mulfree import data, training
    from mulfree.training.run.checkpoint import LAST, WEIGHTS, file_of
    from mulfree.training.run.directory import CONFIG

    file = file_of(path, WEIGHTS)
    config, last = _config_beside(file), file.with_name(LAST)
    if file.name == WEIGHTS and config and config.method.name == "qat" and last.exists():
        file = last
    if file.suffix != ".safetensors":
        checkpoint = training.load_checkpoint(file)
        model, config = training.model_of(checkpoint), checkpoint.config
    else:
        checkpoint = None
        model = training.load_model(file)
    if config is None and data_name is None:
        raise ConfigError(
            f"{verb}: `--data.name` must be given, as there is no {CONFIG} next to {file}"
        )
    if config is None or data_name not in (None, config.data.name):
        return Trained(
            model=model, data=data.DataConfig(name=str(data_name)), checkpoint=checkpoint
        )
    return Trained(model=model, data=config.data, checkpoint=checkpoint)


def _config_beside(file: Path) -> TrainConfig | None:
    """The configuration next to weights of a run; a checkpoint has its own."""
    from mulfree import training
    from mulfree.training.run.directory import CONFIG

    beside = file.with_name(CONFIG)
    if file.suffix != ".safetensors" or not beside.exists():
        return None
    # Absolute, as `~` at the beginning of a name that was read already is no home directory.
    return training.read_config(["--config", str(beside.absolute())])


def load_any(path: Path) -> nn.Module | Graph:
    """The quantised network of an artifact, or the float one of anything else, without its data.

    Raises:
        ArtifactError: No such file, or one that is damaged.
    """
    from mulfree import runtime

    weights = path.suffix == ".safetensors" and not _holds_graph(path)
    if not (path.is_dir() or path.suffix == ".ckpt" or weights):
        return runtime.load(path)
    # Only float networks need it, and it brings Lightning.
    from mulfree.training import load_model

    return load_model(path)


def recall_images(verb: str, path: Path, model: nn.Module) -> None:
    """Complete the recipe of a run's network by what it was trained on.

    Runs of earlier versions did not record it: their data set is read. Where that is not there,
    one line on standard error says so.
    """
    from mulfree import data, models, training
    from mulfree.training.run.checkpoint import WEIGHTS, file_of
    from mulfree.training.run.network import image_spec

    if models.config_of(model).images is not None:
        return
    file = file_of(path, WEIGHTS)
    if file.suffix == ".safetensors":
        config = _config_beside(file)
    else:
        config = training.load_checkpoint(file).config
    if config is None:
        return
    try:
        models.set_images(model, image_spec(config.data.name, data.load(config.data)))
    except (MulfreeError, OSError) as error:
        size = models.input_size(model)
        print(
            printable(
                f"mulfree {verb}: warning: the image size is taken to be {size}, as the data of "
                f"the run cannot be read: {error}",
                MAX_MESSAGE,
            ),
            file=sys.stderr,
        )


def _holds_graph(path: Path) -> bool:
    """Whether a file in the layout of safetensors, which both have, is an artifact."""
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path)
        with safe_open(path, framework="np") as file:
            return "mulfree" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def check_fit(verb: str, model: nn.Module, splits: DataSplits, name: str) -> None:
    """Refuse data of another number of classes or channels than the network's.

    Raises:
        ConfigError: They differ.
    """
    from mulfree import models

    arguments = models.config_of(model).arguments
    for key in ("num_classes", "in_channels"):
        if arguments[key] != getattr(splits, key):
            raise ConfigError(
                f"{verb}: `--data.name` must be a data set with {key} {arguments[key]} as the "
                f"network has it, got {name} with {getattr(splits, key)}"
            )


def shown(steps: Iterable[_T], what: str, total: int | None = None) -> Iterable[_T]:
    """The steps, with a bar on standard error if that is a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not console.is_terminal
    label = escape(printable(what))
    return track(steps, label, total=total, console=console, transient=True, disable=hidden)
