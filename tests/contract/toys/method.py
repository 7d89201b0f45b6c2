"""A training method: one file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from mulfree.tasks import Task
from mulfree.training.method import Batch, MethodConfig, TrainingMethod


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    name: Literal["toy"] = "toy"
    factor: float = 2.0


class Method(TrainingMethod):
    config_class = Config
    config: Config

    def __init__(self, model: nn.Module, config: Config, task: Task | None = None) -> None:
        super().__init__(model, config, task)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.config.factor * self.model(batch[0]).square().mean()}
