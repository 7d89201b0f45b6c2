"""Fine-tuning of a pretrained network on other data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from torch import nn

from mulfree.errors import ConfigError
from mulfree.tasks import Task
from mulfree.training.checks import require
from mulfree.training.losses.supervised import SupervisedConfig, SupervisedMethod
from mulfree.training.stages import HEAD, head_of, stages_of


@dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    """Options of fine-tuning; the network starts from `model.pretrained`.

    Attributes:
        name: Name of the method.
        freeze: Train the head alone: the classifier and the batch norm of its logits.
        freeze_batch_norm: Normalise the body by the running statistics of the pretrained network
            in training too, and leave them as they are.
        lr_decay: Factor on the learning rate for each stage from the head towards the input; the
            head has the learning rate of the optimiser.
    """

    needs_pretrained = True
    name: Literal["finetune"] = "finetune"
    freeze: bool = False
    freeze_batch_norm: bool = False
    lr_decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("finetune", "lr_decay", self.lr_decay, 0 < self.lr_decay <= 1, "lie in (0, 1]")
        if self.freeze and self.lr_decay != 1:
            raise ConfigError(
                "finetune: `lr_decay` must be 1 with freeze, which trains one stage alone, "
                f"got {self.lr_decay}"
            )


class Method(SupervisedMethod):
    r"""Loss on the targets of a network with a frozen body or layer-wise learning rates.

    The learning rate of stage :math:`s` of :math:`S`, counted from the input, is

    .. math:: \eta_s = \eta \, d^{\,S + 1 - s}, \quad \eta_{head} = \eta

    with the factor :math:`d` of `lr_decay`. For adder weights it multiplies the gradient that the
    adaptive local learning rate has rescaled.

    Args:
        model: A network of `create_model`.
        config: Options.
        task: The task; classification by default.

    References:
        Layer-wise decay of the learning rate: arXiv 1801.06146, section 3.2 (discriminative
        fine-tuning).
    """

    config_class = Config
    config: Config

    def __init__(self, model: nn.Module, config: Config, task: Task | None = None) -> None:
        super().__init__(model, config, task)
        self._stages = stages_of(model)
        head = {name.rpartition(".")[0] for name in head_of(model)}
        # Names, because synchronised batch norms replace the modules.
        self._body_norms = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and name not in head
        ]
        if config.freeze:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(self._stages[name] == HEAD)

    def lr_factors(self) -> dict[nn.Parameter, float]:
        """Return the factor on the learning rate of each parameter, by its stage."""
        decay = self.config.lr_decay
        last = len(set(self._stages.values()) - {HEAD})
        depth = {f"stage {stage}": last + 1 - stage for stage in range(1, last + 1)} | {HEAD: 0}
        named = self.model.named_parameters()
        return {parameter: decay ** depth[self._stages[name]] for name, parameter in named}

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but batch norms with frozen statistics."""
        super().train(mode)
        if self.config.freeze_batch_norm:
            for name in self._body_norms:
                self.model.get_submodule(name).eval()
        return self
