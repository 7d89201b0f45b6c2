"""A whole run: from a configuration to a directory with checkpoints, logs and weights."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mulfree import data, models
from mulfree._triton import missing as triton_missing
from mulfree.environment import environment
from mulfree.errors import ConfigError, MulfreeError, TrainingError, quoted
from mulfree.files import locked, remove_parts, write_atomically
from mulfree.models.claims import blueprint
from mulfree.training.evaluation import evaluate
from mulfree.training.methods import get_method
from mulfree.training.run import shards
from mulfree.training.run.checkpoint import (
    BEST,
    LAST,
    WEIGHTS,
    Checkpoint,
    check_network,
    incomplete,
    load_checkpoint,
    load_network,
    model_of,
    teacher_of,
)
from mulfree.training.run.config import TrainConfig, leaves
from mulfree.training.run.progress import Silent, decoding, display
from mulfree.training.run.report import (
    CURVES,
    METRICS_CSV,
    METRICS_JSON,
    Row,
    write_csv,
    write_curves,
    write_json,
)
from mulfree.training.task import TrainingTask

if TYPE_CHECKING:
    from mulfree.training.run.module import RunModule

CONFIG = "config.yaml"
RUNS = "runs"
TEACHER = "teacher.safetensors"
# Images up to this size are kept on the accelerator.
_RESIDENT_BYTES = 2**31

# As launchers write it.
_PROCESSES = re.compile(r"[0-9]{1,9}")

# Options that do not decide the result of a run and may differ when it is resumed.
_FREE_ON_RESUME = frozenset(
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


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a run.

    Attributes:
        directory: Where its files are.
        finished: Whether all epochs were done; otherwise it was asked to stop and can be resumed.
        step: Optimiser steps taken.
        history: One row per finished epoch.
        metrics: Content of metrics.json, empty if not finished.
    """

    directory: Path
    finished: bool
    step: int
    history: list[Row]
    metrics: dict[str, Any]


def train(config: TrainConfig, resume: Checkpoint | None = None) -> Result:
    """Trains a network and writes the files of the run.

    The directory of the run then holds config.yaml, metrics.csv, metrics.json, curves.png,
    model.safetensors (the network of the last epoch), last.ckpt, best.ckpt and tensorboard/, and
    teacher.safetensors where it learned from another network.
    Where the strategy divides the parameters, the two checkpoints are directories.

    Args:
        config: What to do.
        resume: Checkpoint to go on from; its run's directory is used again.

    Raises:
        ConfigError: The configuration does not fit the data, the machine or the checkpoint.
        TrainingError: The loss or a gradient is not finite, or the accelerator's memory is too
            small. The last checkpoint is a good one.
        OSError: A file cannot be written. What was written before is intact.
    """
    with contextlib.ExitStack() as kept:
        return _train(config, resume, kept)


def _train(config: TrainConfig, resume: Checkpoint | None, kept: contextlib.ExitStack) -> Result:
    """`train`; the directory is kept for this run as long as `kept` is open."""
    directory = None if resume is None else _same_run(config, resume, kept)
    place = _place(config)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    with decoding(config.trainer.progress != "none" and is_main_process()) as report:
        splits = data.load(config.data, report)
    if resume is not None:
        _check_recipe(config, splits, resume)
    torch.manual_seed(config.trainer.seed)
    task = build_task(config, splits)
    if config.trainer.precision == "64-true":
        # Now, as weights that are loaded into float32 would be rounded.
        task.double()
    if resume is not None:
        load_network(task.model, resume)
    return _fit(config, task, splits, place, directory, resume, kept)


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


def _check_recipe(config: TrainConfig, splits: data.DataSplits, resume: Checkpoint) -> None:
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


def is_main_process() -> bool:
    """Whether this is the process of a distributed run that writes and speaks."""
    return _rank() == 0


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a process of a run computes."""

    accelerator: str
    local_devices: int
    nodes: int

    @property
    def world_size(self) -> int:
        return self.local_devices * self.nodes

    @property
    def device(self) -> torch.device:
        if self.accelerator == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", _environment_number("LOCAL_RANK", 0))


def _place(config: TrainConfig) -> _Place:
    settings = config.trainer
    accelerator = settings.accelerator
    usable = torch.cuda.is_available()
    if accelerator == "auto":
        accelerator = "cuda" if usable else "cpu"
    if accelerator == "cuda" and not usable:
        where = "on a machine without a usable GPU"
        if torch.version.cuda is None and torch.version.hip is None:
            where = "with a torch that was built without CUDA"
        raise ConfigError(f"train: `trainer.accelerator` must be cpu {where}, got cuda")
    # torchrun has already started the processes and says how many there are.
    local = _environment_number("LOCAL_WORLD_SIZE", settings.devices, least=1)
    nodes = max(1, _environment_number("WORLD_SIZE", local, least=1) // local)
    for name, processes in (("LOCAL_RANK", local), ("RANK", local * nodes)):
        if _environment_number(name, 0) >= processes:
            raise ConfigError(
                f"train: environment variable `{name}` must be below the {processes} processes "
                f"of LOCAL_WORLD_SIZE and WORLD_SIZE, got {os.environ[name]}"
            )
    available = torch.cuda.device_count() if accelerator == "cuda" else os.cpu_count() or 1
    if local > available:
        kind = "CUDA devices" if accelerator == "cuda" else "processors"
        raise ConfigError(
            f"train: `trainer.devices` must be at most the {available} {kind} of this machine, "
            f"got {local}"
        )
    if accelerator == "cuda" and config.model.operator != "conv2d":
        # In double precision nobody expects a fast kernel.
        devices = range(local if settings.precision != "64-true" else 0)
        reasons = [triton_missing(torch.device("cuda", device)) for device in devices]
        if any(reasons):
            raise ConfigError(
                f"train: `trainer.accelerator` must be cpu for {config.model.operator} here, as "
                f"{next(filter(None, reasons))}, got {settings.accelerator}"
            )
    if config.data.batch_size % (local * nodes):
        raise ConfigError(
            f"train: `data.batch_size` must be a multiple of the {local * nodes} processes that "
            f"share it, got {config.data.batch_size}"
        )
    if settings.precision == "16-mixed" and accelerator == "cpu":
        raise ConfigError(
            "train: `trainer.precision` must be 32-true, 64-true or bf16-mixed on a CPU, "
            "got 16-mixed"
        )
    return _Place(accelerator=accelerator, local_devices=local, nodes=nodes)


def _fit(
    config: TrainConfig,
    task: TrainingTask,
    splits: data.DataSplits,
    place: _Place,
    directory: Path | None,
    resume: Checkpoint | None,
    kept: contextlib.ExitStack,
) -> Result:
    # Seconds to import, and not needed by who only wants an optimiser or a schedule.
    from lightning.pytorch import Trainer

    from mulfree.training.distributed.strategy import build_strategy
    from mulfree.training.distributed.sync_batch_norm import SyncBatchNorms
    from mulfree.training.run.callbacks import CheckpointIO, RunFiles, StopOnSignal, StoppedError
    from mulfree.training.run.module import RunModule
    from mulfree.training.run.state import resumable

    settings = config.trainer
    train_loader = _loader(splits.train, config, splits, place, train=True)
    name = "test" if splits.validation is None else "validation"
    held_out = splits.test if splits.validation is None else splits.validation
    module = RunModule(
        task,
        replace(config, trainer=replace(settings, output=None)),
        steps_per_epoch=-(-len(train_loader) // settings.accumulate),
        held_out=name,
        recipe=asdict(models.config_of(task.model)),
    )
    if directory is None:
        directory = _new_directory(config, kept)
    shown = display(settings.progress) if is_main_process() else Silent()
    signals = StopOnSignal(module.request_stop)
    checkpoints = CheckpointIO()
    files = RunFiles(directory, shown, signals, checkpoints)
    plugins: list[Any] = [checkpoints]
    if settings.sync_batchnorm and place.world_size > 1:
        plain = place.accelerator == "cpu" or settings.compile != "none"
        plugins.append(SyncBatchNorms(plain))
    finished = True
    try:
        with signals, _quiet():
            trainer = Trainer(
                accelerator="gpu" if place.accelerator == "cuda" else "cpu",
                devices=place.local_devices,
                num_nodes=place.nodes,
                strategy=build_strategy(settings.strategy, place.world_size),
                precision=settings.precision,
                max_epochs=settings.epochs,
                accumulate_grad_batches=settings.accumulate,
                gradient_clip_val=settings.clip_norm,
                callbacks=[files],
                plugins=plugins,
                default_root_dir=directory,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
            )
            if resume is not None:
                checkpoints.content = resumable(resume, module, trainer, len(train_loader))
            trainer.fit(
                module,
                train_loader,
                _loader(held_out, config, splits, place, train=False),
                ckpt_path=None if resume is None else resume.path,
                weights_only=True,
            )
    except StoppedError:
        finished = False
    except (TrainingError, torch.OutOfMemoryError) as error:
        last = directory / LAST
        hint = f"; the last good checkpoint is {last}" if last.exists() else ""
        if isinstance(error, TrainingError):
            raise TrainingError(f"{error}{hint}") from error
        message = _out_of_memory(config, module.training, place.device) + hint
        if not is_main_process():
            # The others may have memory enough, and wait for this process until it says that it
            # has failed.
            raise SystemExit(message) from error
        raise TrainingError(message) from error
    except (MulfreeError, OSError):
        raise
    except Exception as error:
        if not checkpoints.restoring or resume is None:
            raise
        raise incomplete(resume.path, error) from error
    except SystemExit:
        # What the loop makes of an interrupt.
        raise KeyboardInterrupt from None
    finally:
        files.close()
    metrics: dict[str, Any] = {}
    if finished and is_main_process():
        # Built anew: the one that was trained may be divided among processes.
        checkpoint = load_checkpoint(directory / LAST)
        network, teacher = model_of(checkpoint), teacher_of(checkpoint)
        metrics = _metrics(module, network, teacher, splits, place)
        _write_results(directory, module, network, teacher, metrics)
    return Result(
        directory=directory,
        finished=finished,
        step=module.step,
        history=module.history,
        metrics=metrics,
    )


def _loader(
    images: data.ImageSet,
    config: TrainConfig,
    splits: data.DataSplits,
    place: _Place,
    *,
    train: bool,
) -> data.BatchLoader:
    device = place.device
    if device.type == "cuda" and images.images.nbytes <= _RESIDENT_BYTES:
        images = images.to(device)
    size = config.data.batch_size // place.world_size if train else config.data.eval_batch_size
    return data.BatchLoader(
        images,
        size,
        train=train,
        seed=config.trainer.seed,
        rank=_rank(),
        world_size=place.world_size,
        drop_last=config.data.drop_last if train else False,
        transform=splits.train_transform if train else splits.test_transform,
        device=device,
    )


def _out_of_memory(config: TrainConfig, training: bool, device: torch.device) -> str:
    """What to do about memory that was too small in training or else in validation."""
    if not training:
        return (
            f"train: `data.eval_batch_size` must be lower for the memory of {device}, "
            f"got {config.data.eval_batch_size}"
        )
    return (
        f"train: `data.batch_size` must be lower for the memory of {device}, got "
        f"{config.data.batch_size}; the step stays the same if `trainer.accumulate` "
        f"({config.trainer.accumulate}) is raised as much"
    )


def _metrics(
    module: RunModule,
    network: nn.Module,
    teacher: nn.Module | None,
    splits: data.DataSplits,
    place: _Place,
) -> dict[str, Any]:
    config, history = module.config, module.history
    tested = {name: value for name, value in history[-1].items() if name.startswith("test_")}
    if splits.validation is not None:
        test = data.BatchLoader(
            splits.test,
            config.data.eval_batch_size,
            train=False,
            transform=splits.test_transform,
            device=place.device,
        )
        if teacher is not None:
            teacher.to(place.device)
        result = evaluate(network.to(place.device), test, teacher)
        tested = {"test_accuracy": result.accuracy, "test_loss": result.loss}
        if result.fidelity is not None:
            tested |= {f"test_{key}": value for key, value in asdict(result.fidelity).items()}
    best = module.best
    return {
        "data": config.data.name,
        "model": config.model.name,
        "operator": config.model.operator,
        "method": config.method.name,
        **tested,
        "best_epoch": None if best is None else best["epoch"],
        f"best_{module.held_out}_accuracy": best and best[f"{module.held_out}_accuracy"],
        "epochs": len(history),
        "steps": module.step,
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "parameters": sum(p.numel() for p in network.parameters()),
        "seed": config.trainer.seed,
        "environment": environment(),
    }


def _write_results(
    directory: Path,
    module: RunModule,
    network: nn.Module,
    teacher: nn.Module | None,
    metrics: dict[str, Any],
) -> None:
    models.save_weights(network, directory / WEIGHTS)
    if teacher is not None:
        models.save_weights(teacher, directory / TEACHER)
    # Again, in case the run was killed after its last checkpoint and before this line of it.
    write_csv(directory / METRICS_CSV, module.history)
    write_curves(directory / CURVES, module.history, module.held_out)
    write_json(directory / METRICS_JSON, metrics)


def _same_run(config: TrainConfig, resume: Checkpoint, kept: contextlib.ExitStack) -> Path:
    """The directory of the run of a checkpoint, if `config` is the one of that run."""
    directory = resume.path.parent
    old, new = dict(leaves(resume.config.to_dict())), dict(leaves(config.to_dict()))
    for name in sorted(old.keys() | new.keys()):
        if name not in _FREE_ON_RESUME and old.get(name) != new.get(name):
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
    """Keeps a directory for this run alone.

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


def _new_directory(config: TrainConfig, kept: contextlib.ExitStack) -> Path:
    """An empty directory for a new run, with its configuration in it."""
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
    """A new directory: `directory`, or with the first number for which there is none yet."""
    candidate, number = directory, 2
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            candidate = directory.with_name(f"{directory.name}-{number}")
            number += 1
        else:
            return candidate


def _rank() -> int:
    return _environment_number("RANK", _environment_number("LOCAL_RANK", 0))


def _environment_number(name: str, default: int, least: int = 0) -> int:
    """A number that torchrun or another launcher gives this process, or `default` without one."""
    text = os.environ.get(name, "")
    if not text:
        return default
    if not _PROCESSES.fullmatch(text) or int(text) < least:
        raise ConfigError(
            f"train: environment variable `{name}` must be a whole number >= {least}, "
            f"got {quoted(text)}"
        )
    return int(text)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the loop from talking about itself."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)
            # A teacher that is trained already.
            warnings.filterwarnings("ignore", "Found .* in eval mode at the start", UserWarning)
            # It warns of changing logits in place, which no task does.
            warnings.filterwarnings(
                "ignore", "FSDP2-wrapped module .* returned a view", UserWarning
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
