"""Run: from a configuration to a directory with checkpoints, logs and weights."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mulfree import data, models
from mulfree.errors import MulfreeError, TrainingError
from mulfree.training.method import TrainingMethod
from mulfree.training.run.checkpoint import (
    LAST,
    Checkpoint,
    companions_of,
    incomplete,
    load_checkpoint,
    model_of,
)
from mulfree.training.run.config import TrainConfig
from mulfree.training.run.devices import Place, is_main_process, place_run, rank
from mulfree.training.run.directory import new_directory, resumed_directory
from mulfree.training.run.network import build_method, check_model
from mulfree.training.run.progress import Display, decoding
from mulfree.training.run.report import Row
from mulfree.training.run.results import final_metrics, write_results

# Larger sets of images are not kept on the accelerator.
_RESIDENT_BYTES = 2**31


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a run.

    Attributes:
        directory: Directory with its files.
        finished: Whether all epochs are done; otherwise the run was stopped and can be resumed.
        step: Optimiser steps taken.
        history: One row per finished epoch.
        metrics: Content of metrics.json, empty if not finished.
        companions: Names of the networks that were saved beside the model.
    """

    directory: Path
    finished: bool
    step: int
    history: list[Row]
    metrics: dict[str, Any]
    companions: tuple[str, ...] = ()


def train(config: TrainConfig, resume: Checkpoint | None = None) -> Result:
    """Train a network and write the files of the run.

    The directory of the run receives config.yaml, metrics.csv, metrics.json, curves.png,
    model.safetensors (the network of the last epoch), last.ckpt, best.ckpt, tensorboard/, and
    weights of the networks that the method saves beside the model. With sharded parameters the two
    checkpoints are directories.

    Args:
        config: The run.
        resume: Checkpoint to resume; the directory of its run is used again.

    Raises:
        ConfigError: The configuration does not fit the data, the machine or the checkpoint.
        TrainingError: The loss or a gradient is not finite, or the accelerator's memory is too
            small. The last checkpoint is a good one.
        OSError: A file cannot be written. What was written before is intact.
    """
    with contextlib.ExitStack() as kept:
        return _train(config, resume, kept)


def _train(config: TrainConfig, resume: Checkpoint | None, kept: contextlib.ExitStack) -> Result:
    """Train; the directory is locked as long as `kept` is open."""
    directory = None if resume is None else resumed_directory(config, resume, kept)
    place = place_run(config)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    with decoding(config.trainer.progress != "none" and is_main_process()) as report:
        splits = data.load(config.data, report)
    if resume is not None:
        check_model(config, splits, resume)
    torch.manual_seed(config.trainer.seed)
    method = build_method(config, splits, resumed=resume is not None)
    if config.trainer.precision == "64-true":
        # Before loading: weights loaded into float32 would be rounded.
        method.double()
    if resume is not None:
        # Its tensors fit: `check_model` has compared them.
        method.model.load_state_dict(resume.network)
    return _fit(config, method, splits, place, directory, resume, kept)


def _fit(
    config: TrainConfig,
    method: TrainingMethod,
    splits: data.DataSplits,
    place: Place,
    directory: Path | None,
    resume: Checkpoint | None,
    kept: contextlib.ExitStack,
) -> Result:
    # Imported late: Lightning takes seconds.
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
        method,
        replace(config, trainer=replace(settings, output=None)),
        steps_per_epoch=-(-len(train_loader) // settings.accumulate_grad_batches),
        held_out=name,
        model_config=asdict(models.config_of(method.model)),
    )
    if directory is None:
        directory = new_directory(config, kept)
    shown = Display(settings.progress != "none" and is_main_process())
    signals = StopOnSignal(module.guard.request_stop)
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
                strategy=build_strategy(
                    settings.strategy,
                    place.world_size,
                    find_unused=method.leaves_out_parameters,
                ),
                precision=settings.precision,
                max_epochs=settings.epochs,
                accumulate_grad_batches=settings.accumulate_grad_batches,
                gradient_clip_val=settings.gradient_clip_norm,
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
            # The other ranks may have enough memory, and wait until this process has failed.
            raise SystemExit(message) from error
        raise TrainingError(message) from error
    except (MulfreeError, OSError):
        raise
    except Exception as error:
        if not checkpoints.restoring or resume is None:
            raise
        raise incomplete(resume.path, error) from error
    except SystemExit:
        # The loop turns an interrupt into this exception.
        raise KeyboardInterrupt from None
    finally:
        files.close()
    metrics: dict[str, Any] = {}
    if finished and is_main_process():
        # Built anew: the weights of the trained network may be sharded.
        checkpoint = load_checkpoint(directory / LAST)
        network, companions = model_of(checkpoint), companions_of(checkpoint)
        metrics = final_metrics(module, network, companions, splits, place.device)
        write_results(directory, module, network, companions, metrics)
    return Result(
        directory=directory,
        finished=finished,
        step=module.step,
        history=module.history,
        metrics=metrics,
        companions=tuple(module.companion_configs),
    )


def _loader(
    images: data.ImageSet,
    config: TrainConfig,
    splits: data.DataSplits,
    place: Place,
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
        repeat=config.data.repeat if train else 1,
        seed=config.trainer.seed,
        rank=rank(),
        world_size=place.world_size,
        drop_last=config.data.drop_last if train else False,
        transform=splits.train_transform if train else splits.test_transform,
        device=device,
    )


def _out_of_memory(config: TrainConfig, training: bool, device: torch.device) -> str:
    """Message for an accelerator that ran out of memory in training or else in validation."""
    if not training:
        return (
            f"train: `data.eval_batch_size` must be lower for the memory of {device}, "
            f"got {config.data.eval_batch_size}"
        )
    return (
        f"train: `data.batch_size` must be lower for the memory of {device}, got "
        f"{config.data.batch_size}; the step stays the same if `trainer.accumulate_grad_batches` "
        f"({config.trainer.accumulate_grad_batches}) is raised as much"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's own log lines."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)
            # A network of the method that is not trained.
            warnings.filterwarnings("ignore", "Found .* in eval mode at the start", UserWarning)
            # About changing logits in place, which no method does.
            warnings.filterwarnings(
                "ignore", "FSDP2-wrapped module .* returned a view", UserWarning
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
