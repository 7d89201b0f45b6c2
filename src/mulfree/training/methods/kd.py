"""Knowledge distillation: on the labels and on the probabilities that a trained network gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mulfree.errors import ConfigError
from mulfree.files import expand_paths
from mulfree.training.checks import require, require_choice
from mulfree.training.fidelity import agreement, divergence
from mulfree.training.run.checkpoint import load_teacher
from mulfree.training.task import Batch, MethodConfig, TrainingTask, accuracy, precise

_WEIGHTINGS = ("additive", "convex")


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Options of knowledge distillation.

    Attributes:
        name: Name of the method.
        teacher: Trained network to learn from: a checkpoint, weights, or a run's directory.
        alpha: Weight of what the teacher says.
        loss_weighting: L_labels + alpha L_teacher (additive), or
            (1 - alpha) L_labels + alpha L_teacher (convex).
        temperature: What logits are divided by before the teacher's are learned from.
    """

    name: Literal["kd"] = "kd"
    teacher: str | None = None
    alpha: float = 1.0
    loss_weighting: Literal["additive", "convex"] = "additive"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        expand_paths(self.name, self, "teacher")
        require(self.name, "alpha", self.alpha, self.alpha >= 0, "be at least 0")
        require_choice(self.name, "loss_weighting", self.loss_weighting, _WEIGHTINGS)
        if self.loss_weighting == "convex":
            bound = "be at most 1 with loss_weighting convex"
            require(self.name, "alpha", self.alpha, self.alpha <= 1, bound)
        require(self.name, "temperature", self.temperature, self.temperature > 0, "be positive")

    def losses(self, student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        r"""What the student is to minimise the sum of: its loss on the labels and on the teacher.

        .. math::
            H(y, p_s), \quad \alpha \tau^2 H(p_t^{(\tau)}, p_s^{(\tau)})

        with the cross entropy :math:`H` and probabilities :math:`p^{(\tau)}` of logits divided by
        the temperature; with `loss_weighting` convex the first has the factor :math:`1 - \alpha`.

        Args:
            student: Logits `[N, num_classes]`.
            teacher: Logits `[N, num_classes]`; they get no gradient.
            labels: `[N]`.
        """
        hard = cross_entropy(student, labels)
        if self.loss_weighting == "convex":
            hard = (1 - self.alpha) * hard
        probabilities = (teacher.detach() / self.temperature).softmax(dim=1)
        soft = cross_entropy(student / self.temperature, probabilities)
        # Its gradient goes with 1 / temperature^2.
        return hard, self.alpha * self.temperature**2 * soft


class Task(TrainingTask):
    """The student's losses, see `Config.losses`, with a teacher that stays as it is.

    Of every batch it is also reported how well the teacher does, and how much the student does what
    the teacher does.

    Args:
        model: The student, a network of `create_model`.
        config: Options.

    Raises:
        ConfigError: There is no teacher, or one with other classes or channels than the student.
        ArtifactError: The file of the teacher is missing or damaged.

    References:
        arXiv 1503.02531; `loss_weighting` convex as in arXiv 2106.05945, section 3.
    """

    teacher: nn.Module

    def __init__(self, model: nn.Module, config: Config) -> None:
        super().__init__(model)
        self.config = config
        self.teacher = trained_teacher(model, config)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and its part by the teacher, and what is reported."""
        images, labels = batch
        with torch.no_grad():
            teacher = precise(self.teacher(images))
        student = precise(self.model(images))
        hard, soft = self.config.losses(student, teacher, labels)
        return {"loss": hard + soft, "soft_loss": soft} | comparison(student, teacher, labels)

    def test(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy with the labels as `loss`, and what is reported."""
        return tested(model, self.teacher, batch)

    def train(self, mode: bool = True) -> Task:
        """Sets the mode of all but the teacher, which computes as it was tested."""
        super().train(mode)
        self.teacher.eval()
        return self


def trained_teacher(model: nn.Module, config: Config) -> nn.Module:
    """The network that `config` names, if `model` can learn from it; it cannot be trained.

    Raises:
        ConfigError: There is none, or it has other classes or channels.
        ArtifactError: The file is missing or damaged.
    """
    if config.teacher is None:
        raise ConfigError(f"{config.name}: `teacher` must be a trained network, got None")
    teacher = load_teacher(f"{config.name}: `teacher`", config.teacher, model)
    return teacher.requires_grad_(False)


def tested(model: nn.Module, teacher: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Cross entropy of `model` with the labels as `loss`, and the `comparison` with its teacher."""
    images, labels = batch
    student, taught = precise(model(images)), precise(teacher(images))
    return {"loss": cross_entropy(student, labels)} | comparison(student, taught, labels)


def comparison(student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The student's `accuracy`, and the entries of a `Fidelity`.

    Args:
        student: Logits `[N, num_classes]`.
        teacher: Logits `[N, num_classes]`.
        labels: `[N]`.
    """
    student, teacher = student.detach(), teacher.detach()
    return {
        "accuracy": accuracy(student, labels),
        "teacher_accuracy": accuracy(teacher, labels),
        "agreement": agreement(student, teacher),
        "kl": divergence(student, teacher),
    }
