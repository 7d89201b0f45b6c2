"""Checkpoints of a run: written whole or not at all, and read without trusting them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mulfree import models
from mulfree.errors import ArtifactError, ConfigError
from mulfree.files import write_atomically
from mulfree.models import claims
from mulfree.training import shards
from mulfree.training.config import TrainConfig

FORMAT = "mulfree.checkpoint/1"
# Where a checkpoint keeps, next to the state of the training loop, what mulfree reads back.
KEY = "mulfree"
LAST = "last.ckpt"
WEIGHTS = "model.safetensors"
# Where the weights of a teacher are, in a checkpoint.
_TEACHER = "task.teacher."
BEST = "best.ckpt"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint says of its run.

    Attributes:
        path: The file, or the directory if many processes wrote it together.
        config: Configuration of the run.
        recipe: Recipe of the network.
        history: One entry per finished epoch.
        step: Optimiser steps taken.
        network: State dict of the network to use: the moving average where the run keeps one.
        content: The whole content.
    """

    path: Path
    config: TrainConfig
    recipe: models.ModelConfig
    history: list[dict[str, float]]
    step: int
    network: dict[str, Tensor]
    content: dict[str, Any]


def to_bytes(content: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint file. They are made before a file is touched."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def save_checkpoint(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a checkpoint as a file, in one step.

    Raises:
        OSError: It cannot be written; what was there before is untouched.
    """
    _write(Path(path), to_bytes(content))


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copies a checkpoint, file or directory, in one step.

    Raises:
        OSError: It cannot be written; what was there before is untouched.
    """
    if source.is_dir():
        shards.copy(source, target)
    else:
        _write(target, source.read_bytes())


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint; only tensors and plain values are accepted, no code is run.

    Args:
        path: A file, or a directory that many processes wrote together.

    Raises:
        ArtifactError: No such file, or one that is damaged or not a checkpoint of mulfree.
    """
    file = Path(path)
    content = _read(file)
    own = content.get(KEY)
    try:
        if not isinstance(own, dict) or own["format"] != FORMAT:
            raise _broken(file, "a checkpoint of mulfree train")
        config = TrainConfig.from_dict(own["config"])
        history = [{str(key): _number(row[key]) for key in row} for row in own["history"]]
        recipe = claims.recipe_of(own["recipe"])
        network = _part(content["state_dict"], str(own["network"]))
        step = int(content["global_step"])
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise _broken(file, f"a complete checkpoint ({error})") from error
    return Checkpoint(
        path=file,
        config=config,
        recipe=recipe,
        history=history,
        step=step,
        network=network,
        content=content,
    )


def file_of(path: str | os.PathLike[str], name: str) -> Path:
    """`path`, or what is called `name` in it where it is a run's directory."""
    file = Path(path)
    return file / name if file.is_dir() and not shards.is_sharded(file) else file


def load_model(path: str | os.PathLike[str]) -> nn.Module:
    """The network of a file that `mulfree train` wrote, on the CPU and in evaluation mode.

    Args:
        path: A checkpoint, weights as safetensors, or a run's directory (its weights).

    Raises:
        ArtifactError: No such file, or one that is damaged or not what it claims.
    """
    file = file_of(path, WEIGHTS)
    if file.suffix == ".safetensors":
        return models.load_model(file)
    return model_of(load_checkpoint(file))


def load_teacher(what: str, path: str | os.PathLike[str], student: nn.Module) -> nn.Module:
    """The network of a file as `load_model` reads it, for the images and classes of another one.

    Args:
        what: What an error calls it, as in "kd: `teacher`".
        path: See `load_model`.
        student: The other network, one of `create_model` as well.

    Raises:
        ConfigError: It has another number of classes or channels.
        ArtifactError: No such file, or one that is damaged or not what it claims.
    """
    teacher = load_model(path)
    own, other = (models.config_of(network).arguments for network in (student, teacher))
    for key in ("num_classes", "in_channels"):
        if own[key] != other[key]:
            raise ConfigError(
                f"{what} must have {key} {own[key]} as the network has it, "
                f"got {other[key]} in {os.fspath(path)}"
            )
    return teacher


def model_of(checkpoint: Checkpoint) -> nn.Module:
    """The network of a checkpoint, on the CPU and in evaluation mode.

    Raises:
        ArtifactError: The checkpoint is not what it claims.
    """
    return _built(checkpoint.path, checkpoint.recipe, checkpoint.network)


def teacher_of(checkpoint: Checkpoint) -> nn.Module | None:
    """The network that it learned from, likewise; None where the method has no teacher.

    Raises:
        ArtifactError: The checkpoint is not what it claims.
    """
    own = checkpoint.content[KEY].get("teacher")
    if own is None:
        return None
    try:
        recipe = claims.recipe_of(own)
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(checkpoint.path, f"a complete checkpoint ({error})") from error
    state = _part(checkpoint.content["state_dict"], _TEACHER)
    return _built(checkpoint.path, recipe, state)


def _built(path: Path, recipe: models.ModelConfig, state: dict[str, Tensor]) -> nn.Module:
    try:
        model = claims.build(recipe)
    except (ConfigError, TypeError) as error:
        raise _broken(path, f"of a model that can be built ({error})") from error
    numbers = (t.dtype for t in state.values() if isinstance(t, Tensor))
    model.to(next((dtype for dtype in numbers if dtype.is_floating_point), torch.float32))
    _load(model, state, path)
    return model.eval()


def load_network(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Puts the weights of a checkpoint into a model.

    Raises:
        ArtifactError: They are those of another network.
    """
    _load(model, checkpoint.network, checkpoint.path)


def _load(model: nn.Module, given: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    for name in sorted(own.keys() ^ given.keys()):
        state = "missing" if name in own else "not in the model"
        raise _broken(path, f"of the model it names ({name} is {state})")
    for name, tensor in own.items():
        found = given[name]
        if not isinstance(found, Tensor) or found.shape != tensor.shape:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise _broken(
                path,
                f"of the model it names ({name} has {shape} instead of {list(tensor.shape)})",
            )
    model.load_state_dict(given)


def _write(path: Path, content: bytes) -> None:
    if not path.is_dir():
        write_atomically(path, content)
        return
    # The run went on with another strategy.
    part = shards.part_of(path)
    write_atomically(part, content)
    shards.put_in_place(part, path)


def _read(path: Path) -> dict[str, Any]:
    place = shards.standing(path)
    if not shards.is_sharded(place):
        return _read_file(place, path)
    content = _read_file(place / shards.CONTENT, path)
    return shards.join(content, place)


def _read_file(file: Path, path: Path) -> dict[str, Any]:
    """The content of a file that is, or is in, the checkpoint `path`."""
    try:
        opened = file.open("rb")
    except FileNotFoundError as error:
        raise _broken(path, "an existing file") from error
    except OSError as error:
        raise _broken(path, f"a readable file ({error.strerror})") from error
    with opened:
        try:
            content = torch.load(opened, map_location="cpu", weights_only=True)
        except Exception as error:
            # The unpickler meets arbitrary bytes here, and raises whatever these make it raise.
            raise _broken(path, "a whole checkpoint of tensors and plain values") from error
    if not isinstance(content, dict):
        raise _broken(path, "a checkpoint of mulfree train")
    return content


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with `prefix`, without it."""
    names = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
    return {short: state[name] for short, name in names.items()}


def _number(value: object) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value


def _broken(path: Path, requirement: str) -> ArtifactError:
    return ArtifactError(f"load_checkpoint: `path` must be {requirement}, got {path}")
