"""Loss on the targets alone; options that go with it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mulfree.training.checks import require
from mulfree.training.method import Batch, MethodConfig, TrainingMethod


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(MethodConfig):
    """Options of the loss on the targets.

    Attributes:
        label_smoothing: Share of the target spread evenly over all classes.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        smoothing = self.label_smoothing
        require(self.name, "label_smoothing", smoothing, 0 <= smoothing < 1, "lie in [0, 1)")


class SupervisedMethod(TrainingMethod):
    """Training method with the loss of the network's outputs on the targets."""

    config: SupervisedConfig

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and the metrics."""
        images, targets = batch
        criterion = self.task.criterion
        outputs = criterion.at_least_float32(self.model(images))
        loss = criterion.loss(outputs, targets, label_smoothing=self.config.label_smoothing)
        return {"loss": loss} | self.task.metrics.measure(outputs, targets)
