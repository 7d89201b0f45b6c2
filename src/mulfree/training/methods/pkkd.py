"""Kernel-based progressive distillation: a network learns from one that learns beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mulfree import models
from mulfree.training.checks import require
from mulfree.training.losses.feature_matching import FeatureMatching, FeatureMatchingConfig
from mulfree.training.methods import kd
from mulfree.training.task import Batch, TrainingTask, precise


@dataclass(frozen=True, kw_only=True)
class Config(FeatureMatchingConfig, kd.Config):
    """Options of kernel-based progressive distillation.

    Attributes:
        name: Name of the method.
        teacher: Trained network that teaches as it is; by default a fresh one with convolutions
            learns the labels on the same images, as it would alone, and teaches what it knows.
        beta: Weight of what layers say; 0 leaves it out.
    """

    name: Literal["pkkd"] = "pkkd"  # type: ignore[assignment]
    beta: float = 1.0

    def __post_init__(self) -> None:
        kd.Config.__post_init__(self)
        FeatureMatchingConfig.__post_init__(self)
        require("pkkd", "beta", self.beta, self.beta >= 0, "be at least 0")


class Task(TrainingTask):
    r"""The student's losses and, unless it is trained already, the teacher's.

    .. math::
        L_s = \beta L_{mid} + L_{blend}, \quad L_t = H(y, p_t)

    with `FeatureMatching` for :math:`L_{mid}` and the two terms of `kd.Config.losses` for
    :math:`L_{blend}`. What the teacher says is a constant to the student's loss, so both are
    minimised by one step on their sum, in which the teacher goes the way that it would go alone,
    bit for bit.

    Args:
        model: The student, a network of `create_model`.
        config: Options.

    Raises:
        ConfigError: The teacher does not fit, or an option names what there is not.
        ArtifactError: The file of the teacher is missing or damaged.

    References:
        arXiv 2009.13044, Algorithm 1.
    """

    teacher: nn.Module

    def __init__(self, model: nn.Module, config: Config) -> None:
        super().__init__(model)
        self.config = config
        self.trains_teacher = config.teacher is None
        self.teacher = (
            fresh_teacher(model) if self.trains_teacher else kd.trained_teacher(model, config)
        )
        matches = config.beta > 0
        self.matching = FeatureMatching(model, self.teacher, config) if matches else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of the losses, each of them, and what is reported."""
        images, labels = batch
        if self.matching is not None:
            self.matching.start()
        # First, so that what it does by chance is what it would do alone.
        with torch.set_grad_enabled(self.trains_teacher):
            teacher = precise(self.teacher(images))
        student = precise(self.model(images))
        hard, soft = self.config.losses(student, teacher, labels)
        losses = {"hard_loss": hard, "soft_loss": soft}
        if self.matching is not None:
            losses["mid_loss"] = self.config.beta * self.matching()
        if self.trains_teacher:
            losses["teacher_loss"] = cross_entropy(teacher, labels)
        total = torch.stack(list(losses.values())).sum()
        return {"loss": total} | losses | kd.comparison(student, teacher, labels)

    def test(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy with the labels as `loss`, and what is reported."""
        return kd.tested(model, self.teacher, batch)

    def train(self, mode: bool = True) -> Task:
        """Sets the mode of all but a teacher that is trained already."""
        super().train(mode)
        if not self.trains_teacher:
            self.teacher.eval()
        return self


def fresh_teacher(model: nn.Module) -> nn.Module:
    """The network of `model` with convolutions, as a run of the same seed starts it."""
    recipe = models.config_of(model)
    arguments = {**recipe.arguments, "operator": "conv2d", "gradient": None}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(torch.initial_seed())
        return models.create_model(recipe.name, **arguments)
