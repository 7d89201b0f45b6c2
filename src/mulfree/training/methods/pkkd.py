"""Kernel-based progressive distillation: the teacher is trained jointly with the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mulfree.tasks import Task
from mulfree.training.checks import require
from mulfree.training.losses import distillation
from mulfree.training.losses.distillation import DistillationConfig, DistillationMethod
from mulfree.training.losses.feature_matching import FeatureMatching, FeatureMatchingConfig
from mulfree.training.method import Batch


@dataclass(frozen=True, kw_only=True)
class Config(FeatureMatchingConfig, DistillationConfig):
    """Options of kernel-based progressive distillation.

    Attributes:
        name: Name of the method.
        teacher: Trained network that stays as it is; by default a randomly initialised
            convolutional network, trained jointly on the same batches.
        beta: Weight of the feature-distillation loss; 0 leaves it out.
    """

    name: Literal["pkkd"] = "pkkd"
    beta: float = 1.0

    def __post_init__(self) -> None:
        DistillationConfig.__post_init__(self)
        FeatureMatchingConfig.__post_init__(self)
        require("pkkd", "beta", self.beta, self.beta >= 0, "be at least 0")


class Method(DistillationMethod):
    r"""Losses of the student and, unless it is trained already, of the teacher.

    .. math::
        L_s = \beta L_{mid} + L_{blend}, \quad L_t = H(y, p_t)

    with `FeatureMatching` for :math:`L_{mid}` and the two terms of `DistillationConfig.losses` for
    :math:`L_{blend}`. The teacher's outputs are constants in the student's loss. So one step on the
    sum of both minimises both, and the teacher's weights equal, bit for bit, the weights of a
    convolutional network trained alone.

    Args:
        model: The student, a network of `create_model`.
        config: Options.
        task: The task; classification by default.

    Raises:
        ConfigError: The teacher does not fit, or an option names a layer that does not exist.
        ArtifactError: The file of the teacher is missing or damaged.

    References:
        arXiv 2009.13044, Algorithm 1.
    """

    config_class = Config
    config: Config

    def __init__(self, model: nn.Module, config: Config, task: Task | None = None) -> None:
        super().__init__(model, config, task)
        self.trains_teacher = config.teacher is None
        self.teacher = (
            distillation.fresh_teacher(model)
            if self.trains_teacher
            else distillation.trained_teacher(model, config)
        )
        matches = config.beta > 0
        self.matching = FeatureMatching(model, self.teacher, config) if matches else None

    def param_groups(self) -> list[list[nn.Parameter]]:
        """Return the student's parameters, then the teacher's if it is trained too."""
        if not self.trains_teacher:
            return super().param_groups()
        teacher = list(self.teacher.parameters())
        known = set(teacher)
        return [[p for p in self.parameters() if p not in known], teacher]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the losses, each of them, and the metrics."""
        images, targets = batch
        task = self.task
        if self.matching is not None:
            self.matching.start()
        # Called first, so that its random numbers are the same as in training alone.
        with torch.set_grad_enabled(self.trains_teacher):
            teacher = task.criterion.at_least_float32(self.teacher(images))
        student = task.criterion.at_least_float32(self.model(images))
        hard, soft = self.config.losses(task, student, teacher, targets)
        losses = {"hard_loss": hard, "soft_loss": soft}
        if self.matching is not None:
            losses["mid_loss"] = self.config.beta * self.matching()
        if self.trains_teacher:
            losses["teacher_loss"] = task.criterion.loss(teacher, targets)
        total = torch.stack(list(losses.values())).sum()
        return {"loss": total} | losses | self.measure(student, teacher, targets)
