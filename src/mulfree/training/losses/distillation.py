"""Distillation loss: targets and the outputs of a teacher; options and metrics that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.files import expand_paths
from mulfree.tasks import Task
from mulfree.training.checks import require, require_choice
from mulfree.training.method import Batch, MethodConfig, TrainingMethod
from mulfree.training.run.checkpoint import load_compatible

_WEIGHTINGS = ("additive", "convex")
TEACHER = "teacher"
"""Name of the teacher among the companions of a method."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(MethodConfig):
    """Options of a method with a teacher.

    Attributes:
        teacher: Trained network to learn from: a checkpoint, weights, or a run's directory.
    """

    teacher: str | None = None

    def __post_init__(self) -> None:
        expand_paths(self.name, self, "teacher")


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(TeacherConfig):
    """Options of the distillation loss.

    Attributes:
        alpha: Weight of the loss on the teacher's probabilities.
        loss_weighting: L_targets + alpha L_teacher (additive), or
            (1 - alpha) L_targets + alpha L_teacher (convex).
        temperature: Divides the logits of both networks in the loss on the teacher's probabilities.
    """

    alpha: float = 1.0
    loss_weighting: Literal["additive", "convex"] = "additive"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.name, "alpha", self.alpha, self.alpha >= 0, "be at least 0")
        require_choice(self.name, "loss_weighting", self.loss_weighting, _WEIGHTINGS)
        if self.loss_weighting == "convex":
            bound = "be at most 1 with loss_weighting convex"
            require(self.name, "alpha", self.alpha, self.alpha <= 1, bound)
        require(self.name, "temperature", self.temperature, self.temperature > 0, "be positive")

    def losses(
        self, task: Task, student: Tensor, teacher: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Return the two terms of the student's loss: on the targets and on the teacher.

        .. math::
            H(y, p_s), \quad \alpha \tau^2 H(p_t^{(\tau)}, p_s^{(\tau)})

        with the cross entropy :math:`H` and probabilities :math:`p^{(\tau)}` of logits divided by
        the temperature; with `loss_weighting` convex the first has the factor :math:`1 - \alpha`.

        Args:
            task: The task.
            student: Logits `[N, num_classes]`.
            teacher: Logits `[N, num_classes]`; they get no gradient.
            targets: `[N]`.
        """
        hard = task.criterion.loss(student, targets)
        if self.loss_weighting == "convex":
            hard = (1 - self.alpha) * hard
        soft = task.criterion.soft_loss(student, teacher, self.temperature)
        # The gradient of the soft loss is proportional to 1 / temperature^2.
        return hard, self.alpha * self.temperature**2 * soft


def trained_teacher(model: nn.Module, config: TeacherConfig) -> nn.Module:
    """Return the frozen network that `config` names.

    Raises:
        ConfigError: There is none, or it has other classes or channels than `model`.
        ArtifactError: The file is missing or damaged.
    """
    if config.teacher is None:
        raise ConfigError(f"{config.name}: `teacher` must be a trained network, got None")
    teacher = load_compatible(f"{config.name}: `teacher`", config.teacher, model)
    return teacher.requires_grad_(False)


def fresh_teacher(model: nn.Module) -> nn.Module:
    """Return the network of `model` with convolutions, initialised as in a run of the same seed."""
    config = models.config_of(model)
    arguments = {**config.arguments, "operator": "conv2d", "gradient": None}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(torch.initial_seed())
        return models.create_model(config.name, **arguments)


class TeacherMethod(TrainingMethod):
    """Training method with a teacher: a network that is trained already, or trained beside.

    Subclasses set `teacher`.
    """

    config: TeacherConfig
    teacher: nn.Module

    def companions(self) -> dict[str, nn.Module]:
        """Return the teacher."""
        return {TEACHER: self.teacher}

    def test(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss on the targets, and the metrics."""
        images, targets = batch
        criterion = self.task.criterion
        student, teacher = (criterion.at_least_float32(n(images)) for n in (model, self.teacher))
        loss = criterion.loss(student, targets)
        return {"loss": loss} | self.measure(student, teacher, targets)

    def measure(self, student: Tensor, teacher: Tensor, targets: Any) -> dict[str, Tensor]:
        """Return the metrics of the student's outputs, and their comparison with the teacher's."""
        metrics = self.task.metrics
        compared = metrics.compare(student, teacher, targets, TEACHER)
        return metrics.measure(student, targets) | compared

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but a teacher that is trained already."""
        super().train(mode)
        if self.config.teacher is not None:
            self.teacher.eval()
        return self


class DistillationMethod(TeacherMethod):
    """Training method with the distillation loss."""

    config: DistillationConfig
