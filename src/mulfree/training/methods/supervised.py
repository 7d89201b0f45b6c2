"""Supervised training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mulfree.training.losses.supervised import SupervisedConfig, SupervisedMethod


@dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    """Options of supervised training.

    Attributes:
        name: Name of the method.
    """

    name: Literal["supervised"] = "supervised"


class Method(SupervisedMethod):
    """Loss of the network's outputs on the targets.

    Args:
        model: Maps images `[N, C, H, W]` to the outputs of the task.
        config: Options.
        task: The task; classification by default.
    """

    config_class = Config
    config: Config
