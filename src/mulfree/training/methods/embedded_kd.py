"""Embedded knowledge distillation: a depth-dynamic network teaches its sub-nets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.tasks import Task
from mulfree.training.checks import require, require_choice
from mulfree.training.losses.attention import attention_loss
from mulfree.training.losses.supervised import SupervisedConfig
from mulfree.training.method import Batch, TrainingMethod

_ATTENTION = ("last", "all")
_SCHEDULES = ("all", "extremes")


@dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    """Options of embedded knowledge distillation.

    Attributes:
        name: Name of the method.
        kl_weight: Weight of the divergence of the sub-nets' posteriors from the full network's; the
            default is the published one for CIFAR-10, 15, over its 10 classes, because the
            published mean is over images and classes.
        temperature: Divides the logits in the divergence.
        attention_weight: Weight of the difference of the attention maps.
        attention: Stages whose outputs are compared: the "last", or "all".
        subnet_weight: Weight of the cross entropy of the sub-nets with the labels; with 0 the full
            network is their only target, as the abstract of arXiv 2103.00793 has it.
        schedule: Sub-nets of a step: "all", or the "extremes", the shallowest beside the full
            network, as in ADN.
    """

    name: Literal["embedded_kd"] = "embedded_kd"
    kl_weight: float = 1.5
    temperature: float = 3.0
    attention_weight: float = 1.0
    attention: Literal["last", "all"] = "last"
    subnet_weight: float = 1.0
    schedule: Literal["all", "extremes"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kl_weight", "attention_weight", "subnet_weight"):
            value = getattr(self, name)
            require(self.name, name, value, value >= 0, "be at least 0")
        if not self.kl_weight + self.attention_weight + self.subnet_weight > 0:
            raise ConfigError(
                "embedded_kd: `kl_weight`, `attention_weight` or `subnet_weight` must be above 0, "
                "got 0 for all: sub-nets would not be trained"
            )
        require(self.name, "temperature", self.temperature, self.temperature > 0, "be positive")
        require_choice(self.name, "attention", self.attention, _ATTENTION)
        require_choice(self.name, "schedule", self.schedule, _SCHEDULES)


class Method(TrainingMethod):
    r"""Loss of the full network on the targets, and losses of the sub-nets on its outputs.

    .. math::
        L = H(y, p_f) + \frac{1}{|S|} \sum_{s \in S} \bigl( w_h H(y, p_s) +
            w_k \tau^2 KL(p_f^{(\tau)} \,\|\, p_s^{(\tau)}) + w_a \, MSE(A(F_s), A(F_f)) \bigr)

    over the sub-nets :math:`S` of a step, with probabilities :math:`p^{(\tau)}` of logits divided
    by the temperature and `attention_map` for :math:`A`; with `attention` all the mean over the
    stages. Outputs of the full network are constants in the losses of the sub-nets.

    A step runs the blocks that sub-nets have in common once, see `run_depths`. Its cost is the sum
    of the costs of the networks, less these blocks; there is no teacher to train before.

    Args:
        model: A depth-dynamic network, which runs as its full network.
        config: Options.
        task: The task; classification by default.

    Raises:
        ConfigError: The model is no depth-dynamic network, or the schedule leaves out batch norms.

    References:
        arXiv 2103.00793; weights and maps: code of EKD-FWSNet by the same authors, whose teacher is
        the mean of all branches. Schedule "extremes": arXiv 2312.16392 (ADN).
    """

    config_class = Config
    config: Config
    model: models.DepthDynamicNetwork
    calls_submodules = True
    runs_all_parts = True

    def __init__(self, model: nn.Module, config: Config, task: Task | None = None) -> None:
        super().__init__(model, config, task)
        if not isinstance(model, models.DepthDynamicNetwork):
            raise ConfigError(
                "embedded_kd: `model` must be a depth-dynamic network such as ddnn_resnet20_32_56, "
                f"got a {type(model).__name__}"
            )
        *subnets, self.full = model.depths
        self.subnets = subnets if config.schedule == "all" else subnets[:1]
        trained = {norm for depth in (*self.subnets, self.full) for norm in model.branches(depth)}
        for depth in subnets:
            if not model.branches(depth) <= trained:
                raise ConfigError(
                    "embedded_kd: `schedule` must be all for sub-nets with batch norms of their "
                    f"own, got extremes, which never run {depth}: set batch_norm to stage or shared"
                )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, its parts, and the metrics of the networks of the step."""
        images, targets = batch
        config, criterion = self.config, self.task.criterion
        outputs = self.model.run_depths(images, [*self.subnets, self.full])
        logits = {name: criterion.at_least_float32(one.logits) for name, one in outputs.items()}
        smoothing = config.label_smoothing
        full = logits[self.full]
        parts = {"full_loss": criterion.loss(full, targets, label_smoothing=smoothing)}
        # H(p, p), so that the loss is a divergence.
        entropy = criterion.soft_loss(full.detach(), full, config.temperature)
        means: dict[str, list[Tensor]] = {"subnet_loss": [], "kl_loss": [], "attention_loss": []}
        for name in self.subnets:
            if config.subnet_weight:
                hard = criterion.loss(logits[name], targets, label_smoothing=smoothing)
                means["subnet_loss"].append(config.subnet_weight * hard)
            if config.kl_weight:
                kl = criterion.soft_loss(logits[name], full, config.temperature) - entropy
                means["kl_loss"].append(config.kl_weight * config.temperature**2 * kl)
            if config.attention_weight:
                pairs = zip(outputs[name].features, outputs[self.full].features, strict=True)
                stages = [(criterion.at_least_float32(a), b) for a, b in pairs]
                chosen = stages[-1:] if config.attention == "last" else stages
                maps = torch.stack([attention_loss(*pair) for pair in chosen]).mean()
                means["attention_loss"].append(config.attention_weight * maps)
        parts |= {key: torch.stack(values).mean() for key, values in means.items() if values}
        total = torch.stack(list(parts.values())).sum()
        return {"loss": total} | parts | self._measure(logits, targets)

    def test(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the full network on the targets, and the metrics of all networks."""
        assert isinstance(model, models.DepthDynamicNetwork)
        images, targets = batch
        criterion = self.task.criterion
        outputs = model.run_depths(images)
        logits = {name: criterion.at_least_float32(one.logits) for name, one in outputs.items()}
        loss = criterion.loss(logits[self.full], targets)
        return {"loss": loss} | self._measure(logits, targets)

    def _measure(self, logits: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Metrics of the full network, and of the sub-nets by their names."""
        measure = self.task.metrics.measure
        values = measure(logits[self.full], targets)
        for name in logits:
            if name != self.full:
                values |= {f"{name}_{k}": v for k, v in measure(logits[name], targets).items()}
        return values
