"""Training for a number of steps, and the record of it."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mulfree.data import BatchLoader, DataSplits, ImageSet
from mulfree.environment import environment
from mulfree.files import write_atomically
from mulfree.training import (
    Batch,
    Schedule,
    TrainConfig,
    TrainingMethod,
    build_optimizer,
    evaluate,
)
from mulfree.training.run.network import build_method
from mulfree.training.stages import reset_head


def train_for(config: TrainConfig, splits: DataSplits, steps: int) -> TrainingMethod:
    """Return the method of a configuration, trained for `steps` steps on as many passes as needed.

    The loop of `mulfree train` without its files: seeds, order, augmentation and schedule are the
    same, with the schedule over `steps`. A network without pretrained weights has the head of one
    with them.
    """
    torch.manual_seed(config.trainer.seed)
    method = build_method(config, splits).train()
    if config.model.pretrained is None:
        reset_head(method.model)
    optimizer = build_optimizer(method, config.optimizer)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    schedule = Schedule(config=config.schedule, epochs=1, steps_per_epoch=steps)
    for step, batch in enumerate(itertools.islice(_batches(config, splits), steps)):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule(step)
        optimizer.zero_grad()
        loss = method(batch)["loss"]
        loss.backward()
        optimizer.step()
    return method.eval()


def _batches(config: TrainConfig, splits: DataSplits) -> Iterator[Batch]:
    loader = BatchLoader(
        splits.train,
        config.data.batch_size,
        train=True,
        seed=config.trainer.seed,
        transform=splits.train_transform,
    )
    while True:
        yield from loader


def accuracies(model: nn.Module, splits: DataSplits, batch_size: int) -> dict[str, float]:
    """Return accuracy and loss on the parts that are not trained on."""
    assert splits.validation is not None
    found: dict[str, float] = {}
    for name, part in (("validation", splits.validation), ("test", splits.test)):
        measured = evaluate(model, _evaluation(part, splits, batch_size))
        found |= {f"{name}_accuracy": measured.accuracy, f"{name}_loss": measured.loss}
    return found


def _evaluation(part: ImageSet, splits: DataSplits, batch_size: int) -> BatchLoader:
    return BatchLoader(part, batch_size, train=False, transform=splits.test_transform)


def record(path: Path, run: dict[str, Any], config: TrainConfig, started: float) -> None:
    """Write the result of a run, atomically, and a line about it to the log beside it.

    Of the pretrained weights the name of the file is recorded: its folder belongs to a machine.
    """
    described = config.to_dict()
    for section, key in (("model", "pretrained"), ("method", "teacher")):
        if described[section].get(key):
            described[section][key] = Path(described[section][key]).name
    run = {
        **run,
        "seconds": round(time.perf_counter() - started, 1),
        "config": described,
        "environment": environment(),
    }
    write_atomically(path, (json.dumps(run, indent=2) + "\n").encode())
    line = f"{path.stem}: validation {run['validation_accuracy']:.4f}, "
    line += f"test {run['test_accuracy']:.4f}, {run['seconds']} s"
    print(line, flush=True)
    with (path.parent / "log.txt").open("a") as log:
        log.write(f"{line}\n")


def read(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """Return the results of runs, by the names of their files."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]
