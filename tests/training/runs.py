"""Tiny runs for the tests of training."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
import torch
from torch import Tensor

from mulfree.training import Batch, TrainConfig, train
from mulfree.training.methods import supervised
from mulfree.training.run import callbacks
from mulfree.training.run.checkpoint import save_checkpoint

BASE: dict[str, Any] = {
    "data": {"name": "synthetic", "classes": 3, "image_size": 8, "limit": 64, "batch_size": 16},
    "model": {"name": "lenet5_bn", "operator": "adder2d", "options": {"width": 0.25}},
    "trainer": {
        "epochs": 2,
        "threads": 1,
        "accelerator": "cpu",
        "tensorboard": False,
        "progress": "none",
    },
}


def make_config(directory: Path | None = None, **sections: dict[str, Any]) -> TrainConfig:
    """A run of eight steps of a few milliseconds, with what `sections` changes."""
    values = {key: {**BASE.get(key, {}), **sections.get(key, {})} for key in {*BASE, *sections}}
    config = TrainConfig.from_dict(values)
    output = None if directory is None else str(directory)
    return replace(config, trainer=replace(config.trainer, output=output))


def start(
    words: Sequence[str], script: Sequence[str] = ("-m", "mulfree"), **options: Any
) -> subprocess.Popen[str]:
    """A Python process that turns warnings into errors and uses one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, *script, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def assert_same(one: Any, other: Any, where: str = "", **tolerance: Any) -> None:
    """Equality of nested state bit for bit or within a tolerance; seconds may differ."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one.keys() - {"seconds"}:
            assert_same(one[key], other[key], f"{where}.{key}", **tolerance)
        return
    assert type(one) is type(other), where
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{index}]", **tolerance)
    elif isinstance(one, Tensor) and tolerance:
        torch.testing.assert_close(other, one, **tolerance, msg=where)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * math.nan


def bad_gradient(loss: Tensor) -> Tensor:
    """A loss as it is, whose gradient is not finite."""
    return cast(Tensor, _BadGradient.apply(loss))  # type: ignore[no-untyped-call]


def spoil(monkeypatch: pytest.MonkeyPatch, step: int, how: Callable[[Tensor], Tensor]) -> list[int]:
    """Lets `how` change the loss of a step; the list grows with every step begun."""
    forward = supervised.Method.forward
    begun: list[int] = []

    def spoiled(self: supervised.Method, batch: Batch) -> dict[str, Tensor]:
        begun.append(len(begun) + 1)
        report = forward(self, batch)
        return report | {"loss": how(report["loss"])} if len(begun) == step else report

    monkeypatch.setattr(supervised.Method, "forward", spoiled)
    return begun


def checkpoints_of(config: TrainConfig) -> list[bytes]:
    """Trains; returns every checkpoint as it was written."""
    written: list[bytes] = []

    def keep(content: Any, path: Path) -> None:
        save_checkpoint(content, path)
        written.append(path.read_bytes())

    with mock.patch.object(callbacks, "save_checkpoint", keep):
        train(config)
    return written
