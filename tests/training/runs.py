"""Tiny runs for the tests of training."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mulfree.training import TrainConfig

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


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equality of nested state bit for bit; seconds may differ."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key != "seconds":
                assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where
