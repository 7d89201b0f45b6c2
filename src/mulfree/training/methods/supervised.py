"""Training on the labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mulfree.training.checks import require
from mulfree.training.task import Batch, MethodConfig, TrainingTask, accuracy, precise


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


class Task(TrainingTask):
    """Cross entropy between the logits and the labels.

    Args:
        model: Maps images `[N, C, H, W]` to logits `[N, num_classes]`.
        config: Options.
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        super().__init__(model)
        self.label_smoothing = config.label_smoothing

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy as `loss`, and `accuracy`."""
        images, labels = batch
        logits = precise(self.model(images))
        loss = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return {"loss": loss, "accuracy": accuracy(logits.detach(), labels)}
