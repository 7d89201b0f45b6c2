"""Directory of a run: a new one, or the one of the run that is resumed."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from mulfree.errors import ConfigError, quoted
from mulfree.files import locked, remove_parts, write_atomically
from mulfree.training.run import shards
from mulfree.training.run.checkpoint import BEST, LAST, Checkpoint
from mulfree.training.run.config import TrainConfig, leaves
from mulfree.training.run.devices import is_main_process
from mulfree.training.run.report import METRICS_JSON

CONFIG = "config.yaml"

RUNS = "runs"

FREE_ON_RESUME = frozenset(
    {
        "data.cache",
        "data.eval_batch_size",
        "data.root",
        "trainer.accelerator",
        "trainer.checkpoint_every",
        "trainer.compile",
        "trainer.devices",
        "trainer.log_every",
        "trainer.output",
        "trainer.progress",
        "trainer.strategy",
        "trainer.tensorboard",
        "trainer.threads",
    }
)
"""Options that do not affect the result of a run and may differ when it is resumed."""


def resumed_directory(config: TrainConfig, resume: Checkpoint, kept: contextlib.ExitStack) -> Path:
    """Return the directory of the run of a checkpoint, locked, if `config` is its configuration."""
    directory = resume.path.parent
    old, new = dict(leaves(resume.config.to_dict())), dict(leaves(config.to_dict()))
    for name in sorted(old.keys() | new.keys()):
        if name not in FREE_ON_RESUME and old.get(name) != new.get(name):
            raise ConfigError(
                f"train: `{name}` must be {quoted(old.get(name))} as in the run to resume "
                f"({resume.path}), got {quoted(new.get(name))}"
            )
    output = config.trainer.output
    if output is not None and Path(output).resolve() != directory.resolve():
        raise ConfigError(
            f"train: `trainer.output` must be {directory}, where the run to resume is, got {output}"
        )
    if is_main_process():
        _keep(directory, kept)
        remove_parts(directory)
        for name in (LAST, BEST):
            shards.remove_leftovers(directory / name)
    return directory


def _keep(directory: Path, kept: contextlib.ExitStack) -> None:
    """Lock a directory for this run.

    Raises:
        ConfigError: Another run uses it.
    """
    try:
        kept.enter_context(locked(directory))
    except BlockingIOError as error:
        raise ConfigError(
            f"train: `trainer.output` must be a directory that no other run uses, got {directory} "
            f"({error.strerror})"
        ) from error


def new_directory(config: TrainConfig, kept: contextlib.ExitStack) -> Path:
    """Create the directory of a new run, locked, with its configuration in it."""
    output = config.trainer.output
    parts = (config.data.name, config.model.name, config.model.operator)
    directory = Path(RUNS, "_".join(parts)) if output is None else Path(output)
    if not is_main_process():
        return directory
    try:
        if output is None:
            directory = _numbered(directory)
        else:
            directory.mkdir(parents=True, exist_ok=True)
        _keep(directory, kept)
        if any((directory / name).exists() for name in (LAST, METRICS_JSON)):
            raise ConfigError(
                f"train: `trainer.output` must be a directory without a run, got {directory}; "
                f"go on with that run by --resume {directory}"
            )
        stored = replace(config, trainer=replace(config.trainer, output=None))
        write_atomically(directory / CONFIG, stored.to_yaml().encode())
    except OSError as error:
        raise ConfigError(
            f"train: `trainer.output` must be a writable directory, got {directory}: "
            f"{error.strerror or error}"
        ) from error
    return directory


def _numbered(directory: Path) -> Path:
    """Create `directory`, or the first numbered one that does not exist."""
    candidate, number = directory, 2
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            candidate = directory.with_name(f"{directory.name}-{number}")
            number += 1
        else:
            return candidate
