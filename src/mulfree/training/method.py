"""Training method: a module that turns a batch into losses and metrics, without any loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from mulfree.errors import ConfigError
from mulfree.tasks import Task, get_task

if TYPE_CHECKING:
    from mulfree.training.run.checkpoint import Checkpoint

Batch: TypeAlias = tuple[Tensor, Any]
"""Images `[N, C, H, W]` and the targets of a task, for classification labels `[N]`."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Options of a training method; each method extends it by its own.

    Attributes:
        name: Name of the method.
        keeps_state: Whether a checkpoint holds state of the method that quantisation needs.
    """

    name: str
    keeps_state: ClassVar[bool] = False

    @property
    def needs_pretrained(self) -> bool:
        """True for a network that must start from `model.pretrained`."""
        return False

    def quantize_options(
        self, checkpoint: Checkpoint, model: nn.Module, shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Return arguments of `mulfree.quantization.quantize` that the training has fixed.

        Args:
            checkpoint: Checkpoint of a run with this method.
            model: Its network.
            shape: C, H, W of the images.
        """
        return {}


class TrainingMethod(nn.Module):
    """One training step, without any loop around it.

    Everything the method trains or needs is a submodule; `model` is the network that is kept.

    Args:
        model: Maps images `[N, C, H, W]` to the outputs of the task.
        config: Options.
        task: The task; classification by default.

    Attributes:
        config_class: Class of the options.
        calls_submodules: Whether the modules in a network are called, not the network. With fsdp
            its parameters are then one group, as no call of the network would gather them.
        runs_all_parts: Whether a step runs all depths or exits of a network that has several.
    """

    config_class: ClassVar[type[MethodConfig]]
    calls_submodules: ClassVar[bool] = False
    runs_all_parts: ClassVar[bool] = False

    def __init__(self, model: nn.Module, config: MethodConfig, task: Task | None = None) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.task = get_task() if task is None else task

    @property
    def is_one_graph(self) -> bool:
        """True if the forward compiles as one graph: no shape depends on the values of a batch."""
        return True

    @property
    def is_one_group(self) -> bool:
        """True if fsdp must gather all parameters at once, see `calls_submodules`."""
        return self.calls_submodules or getattr(self.model, "calls_submodules", False)

    @property
    def leaves_out_parameters(self) -> bool:
        """True if the loss of a step depends on a part of the parameters alone."""
        return not self.runs_all_parts and getattr(self.model, "runs_partly", False)

    def companions(self) -> dict[str, nn.Module]:
        """Return networks that are saved beside the model, by the attribute that holds each."""
        return {}

    def param_groups(self) -> list[list[nn.Parameter]]:
        """Return all parameters, grouped by the loss they are trained on."""
        return [list(self.parameters())]

    def lr_factors(self) -> dict[nn.Parameter, float]:
        """Return factors on the learning rate of parameters; 1 for all others."""
        return {}

    def start_step(self, step: int, steps: int) -> None:
        """Set what depends on the position in the run; called before every batch of a step.

        Args:
            step: Optimiser steps taken.
            steps: Optimiser steps of the run.
        """

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return losses and metrics of a batch, scalars averaged over its images.

        Args:
            batch: Images and targets.

        Returns:
            `loss` is minimised; every other entry is only reported.
        """

    def test(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return loss and metrics of a batch that is not trained on.

        Args:
            model: The network to evaluate, `self.model` or its moving average.
            batch: Images and targets.
        """
        images, targets = batch
        outputs = self.task.criterion.at_least_float32(model(images))
        loss = self.task.criterion.loss(outputs, targets)
        return {"loss": loss} | self.task.metrics.measure(outputs, targets)


def compile_method(
    method: TrainingMethod, mode: str = "default"
) -> Callable[[Batch], dict[str, Tensor]]:
    """Compile the forward of a method as one graph; a graph break is an error.

    The size of a batch is a constant of the graph, so another size compiles it anew.

    Args:
        method: The method; the result shares its parameters and its mode.
        mode: "default", "reduce-overhead" (with CUDA graphs) or "max-autotune" of `torch.compile`.

    Raises:
        ConfigError: Shapes inside the forward depend on the values of a batch.
    """
    if not method.is_one_graph:
        raise ConfigError(
            f"train: `trainer.compile` must be none for method {method.config.name} with these "
            f"options, which splits batches by their values, got {mode}"
        )
    compiled: Callable[[Batch], dict[str, Tensor]] = torch.compile(
        method, fullgraph=True, dynamic=False, mode=mode
    )
    return compiled
