"""Kernel-based progressive distillation: a network learns from one that learns beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.training.checks import require, require_choice
from mulfree.training.matching import STAGES, Matching, MatchingConfig, Sigma
from mulfree.training.methods import kd
from mulfree.training.task import Batch, TrainingTask, precise


@dataclass(frozen=True, kw_only=True)
class Config(kd.Config):
    """Options of kernel-based progressive distillation.

    Attributes:
        name: Name of the method.
        teacher: Trained network that teaches as it is; by default a fresh one with convolutions
            learns the labels on the same images, as it would alone, and teaches what it knows.
        beta: Weight of what layers say; 0 leaves it out.
        layers: Layers that are compared, of the student's operator: their names, glob patterns of
            names, or "stages" for the last one at each size of map.
        where: Compare what a layer itself says (layer), or its normalisation (norm).
        kernel: Compare kernels of these responses, or else the responses.
        linear: Compare them behind 1x1 convolutions, which exist in training only: one for each
            network (both), one for the student, which has to foretell the teacher (student), or
            none.
        sigma: Width of the kernels: a number, one that fits the running deviation of the responses
            (matched), or that times a factor that each layer learns (learned).
        sign: The kernel of a convolution falls with its response and that of an adder layer rises
            with its response (opposite), or both rise (same).
        normalise: Compare results of unit variance, which cannot agree by vanishing.
    """

    name: Literal["pkkd"] = "pkkd"  # type: ignore[assignment]
    beta: float = 1.0
    layers: tuple[str, ...] = (STAGES,)
    where: Literal["layer", "norm"] = "layer"
    kernel: bool = True
    linear: Literal["both", "student", "none"] = "both"
    sigma: Sigma = "learned"
    sign: Literal["opposite", "same"] = "opposite"
    normalise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require("pkkd", "beta", self.beta, self.beta >= 0, "be at least 0")
        require_choice("pkkd", "where", self.where, ("layer", "norm"))
        require_choice("pkkd", "linear", self.linear, ("both", "student", "none"))
        require_choice("pkkd", "sign", self.sign, ("opposite", "same"))
        if isinstance(self.sigma, str):
            require_choice("pkkd", "sigma", self.sigma, ("learned", "matched"))
        else:
            require("pkkd", "sigma", self.sigma, self.sigma > 0, "be positive")
        if not self.layers:
            raise ConfigError("pkkd: `layers` must name at least one layer, got none")

    def matching(self) -> MatchingConfig:
        """The options of the comparison of layers."""
        return MatchingConfig(
            layers=tuple(self.layers),
            where=self.where,
            kernel=self.kernel,
            linear=self.linear,
            sigma=self.sigma,
            sign=self.sign,
            normalise=self.normalise,
        )


class Task(TrainingTask):
    r"""The student's losses and, unless it is trained already, the teacher's.

    .. math::
        L_s = \beta L_{mid} + L_{blend}, \quad L_t = H(y, p_t)

    with `Matching` for :math:`L_{mid}` and the two terms of `kd.Config.losses` for
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
        self.matching = Matching(model, self.teacher, config.matching()) if matches else None

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
