"""Supervised training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mulfree.training.checks import require
from mulfree.training.method import Batch, MethodConfig, TrainingMethod


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Options of supervised training.

    Attributes:
        name: Name of the method.
        label_smoothing: Share of the target spread evenly over all classes.
    """

    name: Literal["supervised"] = "supervised"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        smoothing = self.label_smoothing
        require("supervised", "label_smoothing", smoothing, 0 <= smoothing < 1, "lie in [0, 1)")


class Method(TrainingMethod):
    """Loss of the network's outputs on the targets.

    Args:
        model: Maps images `[N, C, H, W]` to the outputs of the task.
        config: Options.
        task: The task; classification by default.
    """

    config_class = Config
    config: Config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and the metrics."""
        images, targets = batch
        criterion = self.task.criterion
        outputs = criterion.at_least_float32(self.model(images))
        loss = criterion.loss(outputs, targets, label_smoothing=self.config.label_smoothing)
        return {"loss": loss} | self.task.metrics.measure(outputs, targets)
