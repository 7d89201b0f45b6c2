"""A training method as a module: a batch goes in, losses and metrics come out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batch: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Options of a training method; each method extends it by its own.

    Attributes:
        name: Name of the method.
    """

    name: str


@dataclass(frozen=True)
class Learner:
    """Parameters that learn from losses of their own.

    Attributes:
        parameters: All of them.
        lr: Their learning rate at its peak; None is that of the run.
    """

    parameters: list[nn.Parameter]
    lr: float | None = None


class TrainingTask(nn.Module):
    """What one training step computes, without any loop around it.

    Everything the method trains or needs is a submodule; `model` is what it is for, and is kept.

    Args:
        model: Maps images `[N, C, H, W]` to logits `[N, num_classes]`.

    Attributes:
        teacher: A network that `model` learns from, if the method has one.
        trains_teacher: Whether the teacher is trained beside it, on a loss of its own.
        teacher_lr: The learning rate of such a teacher at its peak; None is that of the run.
        piecewise: Whether the modules in a network are called, not the network. Its parameters are
            then divided and gathered all together, as nobody calls what would gather some.
    """

    piecewise: ClassVar[bool] = False
    teacher: nn.Module | None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.teacher = None
        self.trains_teacher = False
        self.teacher_lr: float | None = None

    def learners(self) -> list[Learner]:
        """All parameters, those of a teacher that is trained apart."""
        if self.teacher is None or not self.trains_teacher:
            return [Learner(list(self.parameters()))]
        apart = list(self.teacher.parameters())
        known = set(apart)
        own = [p for p in self.parameters() if p not in known]
        return [Learner(own), Learner(apart, self.teacher_lr)]

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses and metrics of a batch, all scalars averaged over its images.

        Args:
            batch: Images `[N, C, H, W]` and labels `[N]`.

        Returns:
            `loss` is what is minimised; every other entry is only reported.
        """

    def test(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """What is reported of a batch that is not trained on.

        Args:
            model: The network to judge, `self.model` or its moving average.
            batch: Images `[N, C, H, W]` and labels `[N]`.
        """
        images, labels = batch
        logits = precise(model(images))
        return {"loss": cross_entropy(logits, labels), "accuracy": accuracy(logits, labels)}


def compile_task(task: TrainingTask, mode: str = "default") -> Callable[[Batch], dict[str, Tensor]]:
    """The forward of `task` compiled, as one graph: what would be left slow is an error.

    The size of a batch is a constant of it, so another one compiles it anew.

    Args:
        task: What to compile; its parameters and mode stay those of the result.
        mode: "default", "reduce-overhead" (with CUDA graphs) or "max-autotune" of `torch.compile`.
    """
    compiled: Callable[[Batch], dict[str, Tensor]] = torch.compile(
        task, fullgraph=True, dynamic=False, mode=mode
    )
    return compiled


def precise(logits: Tensor) -> Tensor:
    """Logits of half precision in float32, others as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest entry of each row of `logits` is at the label, `[N]`.

    A row with an entry that is not a number is wrong.

    Args:
        logits: `[N, num_classes]`.
        labels: `[N]`.
    """
    return (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fraction of the rows of `logits` that are `correct`."""
    return correct(logits, labels).to(torch.float32).mean()
