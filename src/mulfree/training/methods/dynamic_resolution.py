"""Training of networks of dynamic resolution, in two stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, distributed, nn

from mulfree.cost import resolution_costs
from mulfree.errors import ConfigError
from mulfree.models.dynamic_resolution import DynamicResolutionNetwork
from mulfree.models.registry import config_of
from mulfree.tasks import Task
from mulfree.training.checks import require, require_choice
from mulfree.training.distributed.collective import average
from mulfree.training.losses.gumbel import gumbel_noise, straight_through
from mulfree.training.losses.supervised import SupervisedConfig
from mulfree.training.method import Batch, TrainingMethod

_PHASES = ("pretrain", "finetune")


@dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    """Options of the training of a network of dynamic resolution.

    Attributes:
        name: Name of the method.
        phase: The classifier at all resolutions without the predictor (pretrain), or both from
            `model.pretrained` (finetune).
        tau: Temperature of the Gumbel-softmax.
        eta: Weight of the cost.
        alpha: Mean operations of the classifier that cost nothing, or up to 1 their share of the
            operations at the largest resolution; None for no cost at all.
        predictor_lr: Factor on the learning rate of the predictor.
    """

    name: Literal["dynamic_resolution"] = "dynamic_resolution"
    phase: Literal["pretrain", "finetune"] = "pretrain"
    tau: float = 1.0
    eta: float = 0.2
    alpha: float | None = None
    predictor_lr: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self.name, "phase", self.phase, _PHASES)
        require(self.name, "tau", self.tau, self.tau > 0, "be positive")
        require(self.name, "eta", self.eta, self.eta >= 0, "be at least 0")
        if self.alpha is not None:
            require(self.name, "alpha", self.alpha, self.alpha > 0, "be positive")
        require(self.name, "predictor_lr", self.predictor_lr, self.predictor_lr > 0, "be positive")

    @property
    def needs_pretrained(self) -> bool:
        """True for a network that must start from `model.pretrained`."""
        return self.phase == "finetune"


class Method(TrainingMethod):
    r"""Loss of a network that chooses the resolution of every image.

    Phase pretrain: the sum over all resolutions of the losses on the targets; the predictor stays
    as it is. Phase finetune: a one-hot choice :math:`h` of every image by Gumbel-softmax (see
    `losses.gumbel`), and

    .. math::
        L = L_{ce}\Big(\sum_j h_j f_j(x_{r_j})\Big) + \eta \max\Big(0,
        \frac{E[F] - \alpha}{C_{max} - C_{min}}\Big), \quad F = \sum_j C_j h_j

    with the operations :math:`C_j` of `mulfree.cost.resolution_costs` and the mean over the images
    of all ranks. Only the chosen resolution of an image is computed, so the gradient of
    :math:`L_{ce}` on the choices not made is zero. A batch is split by resolution, so every batch
    norm counts its own images alone. A part of one image, whose variance is unknown, is normalised
    by the running statistics, which it does not change.

    Args:
        model: A `DynamicResolutionNetwork` of `create_model`.
        config: Options.
        task: The task; classification by default.

    Raises:
        ConfigError: The model is another one, or `alpha` is not between the smallest and the
            largest cost.

    References:
        arXiv 2106.02898, Eq. 2 to 11 and section 4.1.
    """

    config_class = Config
    config: Config
    model: DynamicResolutionNetwork
    calls_submodules = True

    def __init__(self, model: nn.Module, config: Config, task: Task | None = None) -> None:
        if not isinstance(model, DynamicResolutionNetwork):
            raise ConfigError(
                "dynamic_resolution: `model` must be dynamic_resolution, got "
                f"{config_of(model).name}"
            )
        super().__init__(model, config, task)
        self._costs = resolution_costs(model)
        self._target = _target(config.alpha, self._costs)
        model.predictor.requires_grad_(config.phase == "finetune")

    @property
    def is_one_graph(self) -> bool:
        """True if the forward compiles as one graph: not where it splits batches."""
        return self.config.phase == "pretrain"

    def lr_factors(self) -> dict[nn.Parameter, float]:
        """Return the factor on the learning rate of the predictor."""
        return dict.fromkeys(self.model.predictor.parameters(), self.config.predictor_lr)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, in phase finetune cost and penalty too, and the metrics."""
        images, targets = batch
        if self.config.phase == "pretrain":
            outputs = self._at_all(self.model, images)
            losses = torch.stack([self._loss(part, targets) for part in outputs])
            return {"loss": losses.sum()} | self._measure(outputs, targets)
        criterion = self.task.criterion
        log_p = criterion.at_least_float32(self.model.predictor_logits(images)).log_softmax(1)
        choice = straight_through(log_p, gumbel_noise(log_p), self.config.tau)
        outputs = criterion.at_least_float32(self._chosen(images, choice))
        cost = average(self.expected_cost(choice))
        penalty = self.penalty(cost)
        loss = self._loss(outputs, targets) + penalty
        reported = {"cost": cost.detach() / float(self._costs.max()), "penalty": penalty.detach()}
        return {"loss": loss} | reported | self.task.metrics.measure(outputs, targets)

    def expected_cost(self, choice: Tensor) -> Tensor:
        """Mean operations of choices `[N, m]`, `E[F]`."""
        return (choice * self._costs.to(choice)).sum(1).mean()

    def penalty(self, cost: Tensor) -> Tensor:
        """Weighted cost above `alpha`, relative to the difference of the largest and smallest."""
        if self._target is None:
            return torch.zeros_like(cost)
        span = float(self._costs.max() - self._costs.min())
        return self.config.eta * ((cost - self._target) / span).clamp_min(0)

    @torch.no_grad()
    def test(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return loss and metrics, the means over all resolutions before there is a predictor."""
        images, targets = batch
        assert isinstance(model, DynamicResolutionNetwork)
        criterion = self.task.criterion
        if self.config.phase == "pretrain":
            outputs = self._at_all(model, images)
            loss = torch.stack([criterion.loss(part, targets) for part in outputs]).mean()
            return {"loss": loss} | self._measure(outputs, targets)
        choice = model.predictor_logits(images).argmax(1)
        chosen = criterion.at_least_float32(model.logits_by(images, choice))
        cost = self._costs.to(images.device)[choice].mean() / self._costs.max()
        values = {"loss": criterion.loss(chosen, targets), "cost": cost}
        return values | self.task.metrics.measure(chosen, targets)

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        loss: Tensor = self.task.criterion.loss(outputs, targets, label_smoothing=smoothing)
        return loss

    def _at_all(self, model: DynamicResolutionNetwork, images: Tensor) -> list[Tensor]:
        """Logits at every resolution."""
        convert = self.task.criterion.at_least_float32
        return [convert(model.logits_at(images, side)) for side in model.resolutions]

    def _measure(self, outputs: list[Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Metrics at every resolution, and their means."""
        metrics = [self.task.metrics.measure(part, targets) for part in outputs]
        means = {key: torch.stack([m[key] for m in metrics]).mean() for key in metrics[0]}
        sides = self.model.resolutions
        named = zip(sides, metrics, strict=True)
        return means | {f"{side}_{key}": value for side, m in named for key, value in m.items()}

    def _chosen(self, images: Tensor, choice: Tensor) -> Tensor:
        """Logits of images at their chosen resolutions, times the choices, which are ones."""
        model, indices = self.model, choice.argmax(1)
        counts = torch.bincount(indices, minlength=len(model.resolutions))
        if _synchronised(model):
            distributed.all_reduce(counts)
        parts, rows = [], []
        for index, (side, count) in enumerate(zip(model.resolutions, counts.tolist(), strict=True)):
            own = (indices == index).nonzero().flatten()
            # Without images too: every rank needs gradients, zeros, of all parameters.
            model.network.train(count > 1)
            parts.append(model.logits_at(images[own], side) * choice[own, index, None])
            rows.append(own)
        model.network.train()
        return torch.cat(parts)[torch.cat(rows).argsort()]


def _target(alpha: float | None, costs: Tensor) -> float | None:
    """Operations of the option `alpha`."""
    if alpha is None:
        return None
    low, high = float(costs.min()), float(costs.max())
    target = alpha * high if alpha <= 1 else alpha
    if not low <= target <= high or low == high:
        raise ConfigError(
            f"dynamic_resolution: `alpha` must lie between the costs of several resolutions, in "
            f"[{low:,.0f}, {high:,.0f}] operations or [{low / high:.3g}, 1] of the largest, "
            f"got {alpha:g}"
        )
    return target


def _synchronised(model: nn.Module) -> bool:
    """Return whether batch norms count the images of all ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(type(norm) is not nn.BatchNorm2d for norm in norms)
