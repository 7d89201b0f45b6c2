"""Knowledge distillation from a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mulfree.tasks import Task
from mulfree.training.losses import distillation
from mulfree.training.losses.distillation import DistillationConfig, DistillationMethod
from mulfree.training.method import Batch


@dataclass(frozen=True, kw_only=True)
class Config(DistillationConfig):
    """Options of knowledge distillation; the teacher has no default.

    Attributes:
        name: Name of the method.
    """

    name: Literal["kd"] = "kd"


class Method(DistillationMethod):
    """Distillation loss of the student, see `DistillationConfig.losses`, with a frozen teacher.

    Args:
        model: The student, a network of `create_model`.
        config: Options.
        task: The task; classification by default.

    Raises:
        ConfigError: There is no teacher, or one with other classes or channels than the student.
        ArtifactError: The file of the teacher is missing or damaged.

    References:
        arXiv 1503.02531; `loss_weighting` convex as in arXiv 2106.05945, section 3.
    """

    config_class = Config
    config: Config

    def __init__(self, model: nn.Module, config: Config, task: Task | None = None) -> None:
        super().__init__(model, config, task)
        self.teacher = distillation.trained_teacher(model, config)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, its part by the teacher, and the metrics."""
        images, targets = batch
        task = self.task
        with torch.no_grad():
            teacher = task.criterion.at_least_float32(self.teacher(images))
        student = task.criterion.at_least_float32(self.model(images))
        hard, soft = self.config.losses(task, student, teacher, targets)
        metrics = self.measure(student, teacher, targets)
        return {"loss": hard + soft, "soft_loss": soft} | metrics
