"""Two processes that share a batch do what one process does with the whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tests.training.runs import start

from mulfree.training import load_checkpoint

# Without batch normalisation, which sees the images of its own process only.
SCRIPT = """
import sys
from torch import nn
from mulfree import models
from mulfree.cli.main import main


@models.register_model
def plain(options: models.ModelOptions) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(options.in_channels, 4, 3, padding=1),
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, options.num_classes),
    )


if __name__ == "__main__":
    sys.exit(main())
"""
WORDS = [
    *("--data.name=synthetic", "--data.classes=3", "--data.image_size=8", "--data.limit=64"),
    *("--data.batch_size=16", "--model.name=plain", "--model.options.norm_logits=false"),
    *("--trainer.epochs=2", "--trainer.threads=1", "--trainer.accelerator=cpu"),
    *("--trainer.precision=64-true", "--trainer.tensorboard=false", "--trainer.ema=0.5"),
]

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train_plain.py"
    path.write_text(SCRIPT)
    return str(path)


def run(script: list[str], directory: Path, *words: str) -> dict[str, torch.Tensor]:
    process = start(["train", *WORDS, f"--trainer.output={directory}", *words], script)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    checkpoint = load_checkpoint(directory / "last.ckpt")
    assert checkpoint.step == 8
    assert out.count("of the test images are right") == 1
    return checkpoint.network | {"test": torch.tensor(checkpoint.history[-1]["test_loss"])}


def test_two_processes_equal_one(script: str, tmp_path: Path) -> None:
    one = run([script], tmp_path / "one")
    two = run([script], tmp_path / "two", "--trainer.devices=2")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
    ran = run(torchrun, tmp_path / "ran")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ran[name], weight, rtol=1e-9, atol=1e-9)
