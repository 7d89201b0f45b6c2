"""Script of `test_distributed` in several processes: `mulfree train`, once per argument.

Each argument is a JSON list of words. Run by `-m tests.training.run.many_processes`, alone or under
torchrun.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from lightning.pytorch import Trainer
from torch import nn

from mulfree import models
from mulfree.cli.main import main
from mulfree.training.run.callbacks import RunFiles
from mulfree.training.run.checkpoint import LAST, copy_checkpoint
from mulfree.training.run.module import RunModule

# The step whose checkpoint is kept as that of a run of its own: within the first of two epochs.
MIDDLE = 3


# Without batch normalisation, which sees the images of its own process only.
def plain(options: models.ModelOptions) -> nn.Module:
    """A convolutional network whose layers are children of its own."""
    return nn.Sequential(
        nn.Conv2d(options.in_channels, 4, 3, padding=1),
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, options.num_classes),
    )


save: Any = RunFiles._save


def save_and_keep(self: RunFiles, trainer: Trainer, module: RunModule) -> None:
    """Keeps the checkpoint of step `MIDDLE` in the directory `<run>-middle`."""
    save(self, trainer, module)
    if module.step == MIDDLE and trainer.is_global_zero:
        middle = self.directory.with_name(f"{self.directory.name}-middle")
        middle.mkdir(exist_ok=True)
        copy_checkpoint(self.directory / LAST, middle / LAST)


if __name__ == "__main__":
    models.register_model(plain)
    RunFiles._save = save_and_keep  # type: ignore[method-assign]
    for words in sys.argv[1:]:
        if status := main(["train", *json.loads(words)]):
            sys.exit(status)
