"""Damages checkpoints at random: each is refused with one line, or a run goes on from it.

A few hundred mutations are part of the tests; more, from the root, with

    python -m tests.training.run.fuzz_checkpoints --mutations 20000

Half of the mutations are of bytes, half of the structure, which is then written anew with the right
digest. A checkpoint that passes every check is resumed. No process is started, and no file appears
outside the directory of the run.
"""

from __future__ import annotations

import io
import math
import shutil
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from lightning.pytorch import Trainer
from tests.fuzzing import (
    Random,
    Watch,
    check_line,
    chosen,
    disturbed,
    extended,
    flipped,
    main,
    overwritten,
    rounds,
    truncated,
)
from tests.training.runs import checkpoints_of, make_config
from torch import Tensor

from mulfree.errors import ArtifactError, MulfreeError
from mulfree.training import TrainConfig, load_checkpoint, model_of, train
from mulfree.training.run import state
from mulfree.training.run.checkpoint import companions_of
from mulfree.training.run.module import RunModule
from mulfree.training.run.sealed import to_bytes

# More come of tensors that stand for many times one element.
_MAX_ELEMENTS = 2**20
_NAMES = ("class_path", "__path__", 1.5)


def hostile(rng: Random) -> Any:
    """A value that a checkpoint does not have in most places."""
    kind = int(rng.integers(8))
    if kind == 0:
        deep: Any = 1
        for _ in range(int(rng.integers(1, 60))):
            deep = chosen(rng, [[deep], {"a": deep}, [deep, deep], (deep,)])
        return deep
    if kind == 1:
        return chosen(
            rng,
            [
                *(torch.zeros(()), torch.zeros(1, 7), torch.full((2, 2), torch.nan)),
                *(torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.complex64)),
                *(torch.zeros(1).expand(2**40), torch.zeros(2, 2).to_sparse()),
                *(torch.empty(4, device="meta"), torch.zeros(4, dtype=torch.bool)),
                torch.nn.Parameter(torch.zeros(2)),
            ],
        )
    return chosen(
        rng,
        [
            *(0, 1, -1, 2, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 10**300, True, False, None),
            *(0.0, -1.0, 0.5, 1e300, math.nan, math.inf, -math.inf, "", "x", "adder2d", "\x1b[0m"),
            *("x" * 5000, [], {}, [0], [1, "a"], {"a": 0}, {1: 2}, (), (1, 2), OrderedDict(a=1)),
            *(b"x", {1, 2}, 1j, torch.Size([1]), torch.float32, torch.device("cpu")),
        ],
    )


def other(rng: Random, value: Any) -> Any:
    """A value in place of `value`: often of its kind, or hostile."""
    if isinstance(value, Tensor) and rng.integers(3):
        return _other_tensor(rng, value)
    if isinstance(value, int) and not rng.integers(3):
        return value + int(rng.integers(-2, 3))
    return hostile(rng)


def _other_tensor(rng: Random, tensor: Tensor) -> Tensor:
    if tensor.is_complex() or tensor.layout != torch.strided or tensor.numel() > _MAX_ELEMENTS:
        return torch.zeros(0)
    others = [
        *(tensor.double(), tensor.half(), tensor.to(torch.int64), tensor[None], tensor.flatten()),
        *(tensor / 0, torch.zeros(0), tensor.expand(3, *tensor.shape)),
        *(tensor.to(torch.complex64), tensor.to("meta"), tensor.bool()),
    ]
    other: Tensor = chosen(rng, others)
    return other


def damaged(rng: Random, content: bytes) -> bytes:
    """A file with other bytes."""
    match int(rng.integers(8)):
        case 0:
            return repacked(rng, content)
        case 1:
            start, end = sorted(int(i) for i in rng.integers(len(content), size=2))
            return content[:start] + content[end:]
        case 2:
            # Another comment, of any length that it gives.
            length = int(chosen(rng, [0, 1, 79, 200, 65535]))
            return content[:-81] + struct.pack("<H", length) + content[-79:]
    change = chosen(rng, [truncated, extended, overwritten, flipped, flipped])
    return bytes(change(rng, content))


def repacked(rng: Random, content: bytes) -> bytes:
    """The records of a file in an archive without digest; one of them changed, or compressed."""
    made = io.BytesIO()
    kind = int(chosen(rng, [zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", kind) as new:
        records = old.infolist()
        changed = chosen(rng, records) if rng.integers(3) else records[0]
        for record in records:
            data = old.read(record)
            data = flipped(rng, data) if record is changed and data else data
            new.writestr(record.filename, data)
    return made.getvalue()


@dataclass(frozen=True)
class Base:
    """A checkpoint, and the run that goes on from it as it starts."""

    content: bytes
    module: RunModule
    trainer: Trainer
    batches: int


def make_bases(folder: Path) -> list[Base]:
    """Small checkpoints within an epoch and after the last one, of two methods."""
    variants: list[dict[str, Any]] = [
        {"trainer": {"epochs": 2, "checkpoint_every": 1, "ema": 0.9}},
        {
            "method": {"name": "pkkd"},
            "optimizer": {"name": "adamw", "lr": 0.01},
            "trainer": {"epochs": 1, "checkpoint_every": 1},
        },
    ]
    return [
        base
        for number, variant in enumerate(variants)
        for base in _bases(make_config(folder / str(number), **variant))
    ]


def _bases(config: TrainConfig) -> Iterator[Base]:
    """Checkpoints of one run that is stopped twice."""
    saved = checkpoints_of(config)
    with mock.patch.object(state, "resumable", wraps=state.resumable) as seen:
        checkpoint = load_checkpoint(f"{config.trainer.output}/last.ckpt")
        train(checkpoint.config, checkpoint)
    _, module, trainer, batches = seen.call_args.args
    for content in (saved[2], saved[-1]):
        yield Base(content=content, module=module, trainer=trainer, batches=batches)


def fuzz(mutations: int, seed: int, folder: Path, resumed: float = 0.1) -> Counter[str]:
    """Count the mutations by where they are refused; any other outcome is an exception.

    Args:
        mutations: How many.
        seed: Decides them.
        folder: An empty one.
        resumed: Share of what passes every check that a run goes on from.
    """
    rng = np.random.default_rng(seed)
    bases = make_bases(folder / "bases")
    contents = [torch.load(io.BytesIO(base.content), weights_only=True) for base in bases]
    outcomes: Counter[str] = Counter()
    path = folder / "run" / "last.ckpt"
    path.parent.mkdir()
    watch = Watch(folder)
    for number in rounds(mutations):
        index = int(rng.integers(len(bases)))
        if rng.integers(2):
            file = damaged(rng, bases[index].content)
        else:
            file = to_bytes(disturbed(rng, contents[index], partial(other, rng), _NAMES))
        path.write_bytes(file)
        with watch:
            outcome = _outcome(path, bases[index])
        outcomes[outcome] += 1
        if outcome == "taken" and rng.random() < resumed:
            outcomes[_resumed(path)] += 1
            shutil.rmtree(path.parent)
            path.parent.mkdir()
        assert sorted(found.name for found in folder.iterdir()) == ["bases", "run"], number
    return outcomes


def _outcome(path: Path, base: Base) -> str:
    """Place where a checkpoint is refused, or "taken"."""
    where = "not read"
    try:
        checkpoint = load_checkpoint(path)
        where = "not built"
        model_of(checkpoint)
        companions_of(checkpoint)
        where = "of another run"
        # The rest of a configuration is compared with it before.
        config = replace(base.module.config, trainer=checkpoint.config.trainer)
        if checkpoint.config != config:
            return where
        state.resumable(checkpoint, base.module, base.trainer, base.batches)
    except ArtifactError as error:
        check_line(error)
        return where
    return "taken"


def _resumed(path: Path) -> str:
    """Resume a run from a checkpoint to its end, if it is not refused."""
    try:
        checkpoint = load_checkpoint(path)
        settings = replace(checkpoint.config.trainer, tensorboard=False, progress="none")
        if max(settings.epochs, settings.devices) > 2:
            return "not resumed"
        train(replace(checkpoint.config, trainer=settings), checkpoint)
    except MulfreeError as error:
        check_line(error)
        return "refused by the run"
    return "resumed"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(fuzz, "checkpoints", resumed=0.1)
