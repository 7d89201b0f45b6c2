"""Checkpoints of a run: written atomically, and read without trusting them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor, nn

from mulfree import models
from mulfree.errors import ArtifactError, ConfigError, quoted
from mulfree.files import read_regular, write_atomically
from mulfree.models.claims import broken, check_tensors, claimed, config_from, is_plain, restored
from mulfree.training.run import sealed, shards
from mulfree.training.run.config import TrainConfig

FORMAT = "mulfree.checkpoint/1"
# Key of the state of the run, beside the state of the training loop.
KEY = "mulfree"
LAST = "last.ckpt"
WEIGHTS = "model.safetensors"
# Keys of a run; the others are configurations of networks saved beside the model, by name.
_KEYS = {"format", "config", "recipe", "network", "history", "train_sums", "seconds"}
BEST = "best.ckpt"
NETWORKS = {False: "task.model.", True: "ema.module."}
"""Prefix of the weights of the network to use, by whether the run keeps a moving average."""
_PATH = "load_checkpoint: `path`"
# Far above any checkpoint.
_MAX_DEPTH = 32
_MAX_VALUES = 2**20


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Content of a checkpoint.

    Attributes:
        path: The file, or the directory of a sharded checkpoint.
        config: Configuration of the run.
        model_config: Configuration of the network.
        companions: Configurations of the networks saved beside it, by name.
        history: One entry per finished epoch.
        step: Optimiser steps taken.
        network: State dict of the network to use: the moving average where the run keeps one.
        content: The whole content.
    """

    path: Path
    config: TrainConfig
    model_config: models.ModelConfig
    companions: dict[str, models.ModelConfig]
    history: list[dict[str, float]]
    step: int
    network: dict[str, Tensor]
    content: dict[str, Any]


def save_checkpoint(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint as a file, atomically.

    Raises:
        OSError: It cannot be written; the previous file is untouched.
    """
    _write(Path(path), sealed.to_bytes(dict(content)))


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint, file or directory, atomically.

    Raises:
        OSError: It cannot be written; the previous file is untouched.
    """
    if source.is_dir():
        shards.copy(source, target)
    else:
        _write(target, read_regular(source))


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint; only tensors and plain values are accepted, no code is run.

    Args:
        path: A file, or a directory of a sharded checkpoint.

    Raises:
        ArtifactError: No such file, or one that is damaged or not a checkpoint of mulfree.
    """
    file = Path(path)
    content = _read(file)
    own = content.get(KEY)
    if not isinstance(own, dict) or own.get("format") != FORMAT:
        raise _broken(file, "a checkpoint of mulfree train")
    try:
        config = TrainConfig.from_dict(own["config"])
        history = _rows(own["history"])
        model_config = config_from(own["recipe"])
        companions = {
            str(name): config_from(value)
            for name, value in own.items()
            if name not in _KEYS and value is not None
        }
        _number(own["seconds"])
        _rows([own["train_sums"]])
        network = _part(_state_dict(content["state_dict"]), _prefix(own["network"]))
        step = _count(content["global_step"])
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise incomplete(file, error) from error
    return Checkpoint(
        path=file,
        config=config,
        model_config=model_config,
        companions=companions,
        history=history,
        step=step,
        network=network,
        content=content,
    )


def incomplete(path: Path, reason: Exception) -> ArtifactError:
    """Return the error of a checkpoint with a missing or wrong entry."""
    return _broken(path, f"a complete checkpoint ({reason})")


def file_of(path: str | os.PathLike[str], name: str) -> Path:
    """Return `path`, or the file `name` in it if it is a run's directory."""
    file = Path(path)
    return file / name if file.is_dir() and not shards.is_sharded(file) else file


def load_model(path: str | os.PathLike[str]) -> nn.Module:
    """Return the network of a file of `mulfree train`, on the CPU and in evaluation mode.

    Args:
        path: A checkpoint, weights as safetensors, or a run's directory (its weights).

    Raises:
        ArtifactError: No such file, or one that is damaged or not what it claims.
    """
    file = file_of(path, WEIGHTS)
    if file.suffix == ".safetensors":
        return models.load_model(file)
    return model_of(load_checkpoint(file))


def load_compatible(what: str, path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Return the network of a file as `load_model` does, for the images and classes of `model`.

    Args:
        what: Its name in an error.
        path: See `load_model`.
        model: Another network of `create_model`.

    Raises:
        ConfigError: It has another number of classes or channels.
        ArtifactError: No such file, or one that is damaged or not what it claims.
    """
    loaded = load_model(path)
    own, other = (models.config_of(network).arguments for network in (model, loaded))
    for key in ("num_classes", "in_channels"):
        if own[key] != other[key]:
            raise ConfigError(
                f"{what} must have {key} {own[key]} as the network has it, "
                f"got {other[key]} in {os.fspath(path)}"
            )
    return loaded


def model_of(checkpoint: Checkpoint) -> nn.Module:
    """Return the network of a checkpoint, on the CPU and in evaluation mode.

    Raises:
        ArtifactError: The checkpoint is not what it claims.
    """
    return restored(_PATH, checkpoint.path, checkpoint.model_config, checkpoint.network)


def companions_of(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """Return the networks that were saved beside the model, by name, likewise.

    Raises:
        ArtifactError: The checkpoint is not what it claims.
    """
    state = checkpoint.content["state_dict"]
    return {
        name: restored(_PATH, checkpoint.path, config, _part(state, f"task.{name}."))
        for name, config in checkpoint.companions.items()
    }


def check_network(checkpoint: Checkpoint) -> None:
    """Refuse weights that do not fit the model configuration, before allocating a network.

    Raises:
        ArtifactError: They belong to another network.
    """
    expected = claimed(_PATH, checkpoint.path, checkpoint.model_config)
    check_tensors(_PATH, checkpoint.path, expected, checkpoint.network)


def _write(path: Path, content: bytes) -> None:
    if not path.is_dir():
        write_atomically(path, content)
        return
    # The run was resumed with another strategy.
    part = shards.part_of(path)
    write_atomically(part, content)
    shards.put_in_place(part, path)


def _read(path: Path) -> dict[str, Any]:
    place = shards.standing(path)
    if not shards.is_sharded(place):
        return _read_file(place, path)
    content = _read_file(place / shards.CONTENT, path, divided=True)
    return shards.join(content, place)


def _read_file(file: Path, path: Path, *, divided: bool = False) -> dict[str, Any]:
    """Content of a file that is the checkpoint `path`, or part of it."""
    try:
        content = sealed.from_bytes(read_regular(file))
    except FileNotFoundError as error:
        raise _broken(path, "an existing file") from error
    except OSError as error:
        raise _broken(path, f"a readable file ({error.strerror})") from error
    except ValueError as error:
        requirement = f"a whole checkpoint of tensors and plain values ({error})"
        raise _broken(path, requirement) from error
    try:
        _check_plain(content, divided)
    except ValueError as error:
        raise _broken(path, f"a whole checkpoint of plain tensors and values ({error})") from error
    if not isinstance(content, dict):
        raise _broken(path, "a checkpoint of mulfree train")
    return content


def _check_plain(content: object, divided: bool) -> None:
    """Refuse content that is nested too deep, has too many values, or is not plain.

    Raises:
        ValueError: The content is refused; the message is the reason.
    """
    level, count = [content], 0
    for _ in range(_MAX_DEPTH):
        count += len(level)
        if count > _MAX_VALUES:
            raise ValueError(f"more than {_MAX_VALUES} values")
        below: list[object] = []
        for value in level:
            if type(value) in (dict, OrderedDict):
                assert isinstance(value, dict)
                below += value.keys()
                below += value.values()
            elif type(value) in (list, tuple):
                assert isinstance(value, (list, tuple))
                below += value
            elif isinstance(value, Tensor):
                _check_tensor(value, divided)
            elif type(value) is int:
                if not -(2**63) <= value < 2**63:
                    raise ValueError(f"{quoted(value)} is too large")
            elif not isinstance(value, (bool, float, str, NoneType)):
                raise ValueError(f"a {type(value).__name__} is no plain value")
            if len(below) > _MAX_VALUES:
                raise ValueError(f"more than {_MAX_VALUES} values")
        if not below:
            return
        level = below
    raise ValueError(f"nested deeper than {_MAX_DEPTH}")


def _check_tensor(tensor: Tensor, divided: bool) -> None:
    if divided and type(tensor) is Tensor and tensor.is_meta:
        # Its elements are stored in other files.
        return
    if type(tensor) is not Tensor or not is_plain(tensor):
        raise ValueError("a tensor is not plain")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("a tensor has more elements than the file")


def _state_dict(state: object) -> dict[str, Tensor]:
    if not isinstance(state, dict):
        raise TypeError(f"`state_dict` is {quoted(state)}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise TypeError(f"{quoted(name)} in `state_dict` is no tensor with a name")
    return state


def _prefix(name: object) -> str:
    """Prefix of the names of the network's weights."""
    if name not in NETWORKS.values():
        raise TypeError(f"`network` is {quoted(name)}")
    return str(name)


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries whose names begin with `prefix`, with the prefix removed."""
    names = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
    return {short: state[name] for short, name in names.items()}


def _rows(values: object) -> list[dict[str, float]]:
    """Tables of numbers."""
    if not isinstance(values, list) or not all(isinstance(row, dict) for row in values):
        raise TypeError(f"{quoted(values)} is not a list of tables")
    return [{str(key): _number(value) for key, value in row.items()} for row in values]


def _number(value: object) -> float:
    if type(value) is not int and type(value) is not float:
        raise TypeError(f"{quoted(value)} is not a number")
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{quoted(value)} is not a number of steps")
    return value


def _broken(path: Path, requirement: str) -> ArtifactError:
    return broken(_PATH, path, f"be {requirement}")
