"""Joint training of all exits of a network, optionally with distillation from the last one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from mulfree.errors import ConfigError
from mulfree.models.early_exit import EarlyExitNetwork
from mulfree.tasks import Task
from mulfree.training.checks import require
from mulfree.training.losses.supervised import SupervisedConfig
from mulfree.training.method import Batch, TrainingMethod


@dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    """Options of the joint training of exits.

    Attributes:
        name: Name of the method.
        exit_weights: Weight of the loss of every exit, the network's own last; empty for 1 each,
            as in arXiv 1703.09844 (MSDNet).
        alpha: Weight of the loss on the probabilities of the last exit in the loss of each other
            one, whose loss on the labels has 1 - alpha; 0 for none.
        temperature: Divides the logits of both in that loss.
    """

    name: Literal["early_exit"] = "early_exit"
    exit_weights: tuple[float, ...] = ()
    alpha: float = 0.0
    temperature: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for weight in self.exit_weights:
            require(self.name, "exit_weights", weight, weight >= 0, "be at least 0")
        require(self.name, "alpha", self.alpha, 0 <= self.alpha <= 1, "lie in [0, 1]")
        require(self.name, "temperature", self.temperature, self.temperature > 0, "be positive")


class Method(TrainingMethod):
    r"""Weighted sum of the losses of all exits.

    .. math::
        \sum_k w_k \left( (1 - \alpha) H(y, p_k) + \alpha \tau^2 H(p_K^{(\tau)},
        p_k^{(\tau)}) \right)

    with the cross entropy :math:`H`, and probabilities :math:`p^{(\tau)}` of logits divided by the
    temperature. The last exit :math:`K` has the loss :math:`H(y, p_K)` alone, and gets no gradient
    as a teacher.

    Args:
        model: A network of the model `early_exit`.
        config: Options.
        task: The task; classification by default.

    Raises:
        ConfigError: The network has no exits, or there is another number of weights.

    References:
        Weighted sum over the exits: arXiv 1709.01686 (BranchyNet). Weights of 1: arXiv 1703.09844
        (MSDNet). Distillation from the last exit: loss sources 1 and 2 of arXiv 1905.08094, whose
        third, of features, is left out.
    """

    config_class = Config
    config: Config
    calls_submodules = True
    runs_all_parts = True

    def __init__(self, model: nn.Module, config: Config, task: Task | None = None) -> None:
        super().__init__(model, config, task)
        if not isinstance(model, EarlyExitNetwork):
            raise ConfigError(
                "early_exit: the network must be one with exits, the model early_exit, "
                f"got a {type(model).__name__}"
            )
        weights = config.exit_weights or (1.0,) * len(model.outputs)
        if len(weights) != len(model.outputs):
            raise ConfigError(
                f"early_exit: `exit_weights` must be {len(model.outputs)} numbers, one for each of "
                f"{', '.join(model.outputs)}, got {len(weights)}"
            )
        self._weights = tuple(map(float, weights))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the joint loss and the metrics of every exit."""
        images, targets = batch
        criterion, config = self.task.criterion, self.config
        *exits, final = self._outputs(self.model, images).values()
        losses = [
            criterion.loss(logits, targets, label_smoothing=config.label_smoothing)
            for logits in (*exits, final)
        ]
        if config.alpha > 0:
            for number, logits in enumerate(exits):
                soft = criterion.soft_loss(logits, final, config.temperature)
                soft = config.temperature**2 * soft
                losses[number] = (1 - config.alpha) * losses[number] + config.alpha * soft
        joint = sum(
            (weight * loss for weight, loss in zip(self._weights[1:], losses[1:], strict=True)),
            start=self._weights[0] * losses[0],
        )
        return {"loss": joint} | self._measure((*exits, final), targets)

    def test(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the last exit, and the metrics of every exit."""
        images, targets = batch
        found = tuple(self._outputs(model, images).values())
        return {"loss": self.task.criterion.loss(found[-1], targets)} | self._measure(
            found, targets
        )

    def _outputs(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        assert isinstance(model, EarlyExitNetwork)
        at_least_float32 = self.task.criterion.at_least_float32
        return {name: at_least_float32(y) for name, y in model.all_logits(images).items()}

    def _measure(self, outputs: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:
        """Metrics of the last exit, and of each other one with its name before theirs."""
        assert isinstance(self.model, EarlyExitNetwork)
        *exits, final = outputs
        found = dict(self.task.metrics.measure(final, targets))
        for name, logits in zip(self.model.outputs, exits, strict=False):
            measured = self.task.metrics.measure(logits, targets)
            found |= {f"{name}_{metric}": value for metric, value in measured.items()}
        return found
