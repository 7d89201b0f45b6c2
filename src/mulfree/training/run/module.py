"""The one LightningModule: steps, moving average, running metrics and guards around a task."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from mulfree import models
from mulfree.errors import TrainingError, quoted
from mulfree.training.optim.build import build_optimizer
from mulfree.training.optim.local_lr import AdaptiveLocalLR, GradientError
from mulfree.training.optim.p_annealing import PAnnealing
from mulfree.training.optim.schedule import Schedule
from mulfree.training.run import checkpoint
from mulfree.training.run.config import TrainConfig
from mulfree.training.run.guard import Guard, local
from mulfree.training.task import Batch, TrainingTask, compile_task

Row = dict[str, float]


class RunModule(LightningModule):
    """A task, and what a run needs around it.

    Everything that decides the run is a function of its configuration and of the state that a
    checkpoint holds: a run that was stopped and resumed goes on bit for bit like one that was not.

    Args:
        task: What is trained.
        config: The run.
        steps_per_epoch: Optimiser steps of an epoch.
        held_out: What the data that is not trained on is called in the history.
        recipe: Recipe of the network, as `mulfree.models.config_of` gives it.
    """

    def __init__(
        self,
        task: TrainingTask,
        config: TrainConfig,
        *,
        steps_per_epoch: int,
        held_out: str,
        recipe: dict[str, Any],
    ) -> None:
        super().__init__()
        self.task = task
        self.config = config
        self.held_out = held_out
        self.recipe = recipe
        self.teacher_recipe: dict[str, Any] | None = None
        if task.teacher is not None:
            self.teacher_recipe = asdict(models.config_of(task.teacher))
        self.steps_per_epoch = steps_per_epoch
        epochs = config.trainer.epochs
        self.schedule = Schedule(
            config=config.schedule, epochs=epochs, steps_per_epoch=steps_per_epoch
        )
        self.ema: AveragedModel | None = None
        if config.trainer.ema is not None:
            self.ema = AveragedModel(task.model, use_buffers=True)
            self.ema.requires_grad_(False)
        # After the copy, whose layers follow the annealing too.
        self.annealing = PAnnealing(self, config.p_annealing, epochs * steps_per_epoch)
        # In a list: as an attribute the compiled module would be a second child with the weights.
        mode = str(config.trainer.compile)
        self._compiled = [] if mode == "none" else [compile_task(task, mode)]
        self.history: list[Row] = []
        self.guard = Guard(config.trainer.log_every, self._position)
        self._train_sums: dict[str, Tensor] = {}
        self._held_sums: dict[str, Tensor] = {}
        self._seconds = 0.0
        self._since = time.perf_counter()

    @property
    def network(self) -> nn.Module:
        """The network that is tested and kept: the moving average where there is one."""
        return self.task.model if self.ema is None else self.ema.module

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return self.trainer.global_step

    @property
    def best(self) -> Row | None:
        """The epoch with the highest accuracy on held-out data, of those with plain adders."""
        rows = [row for row in self.history if row.get("norm", 1.0) == 1.0]
        return max(rows, key=lambda row: row[f"{self.held_out}_accuracy"], default=None)

    # --- one step -----------------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        """The optimiser of the task's parameters; the schedule is applied at each step."""
        optimizer = build_optimizer(self.task, self.config.optimizer)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def on_train_start(self) -> None:
        """Starts the clock, and brings sums that a checkpoint held to the device."""
        self._train_sums = {key: value.to(self.device) for key, value in self._train_sums.items()}
        self._since = time.perf_counter()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Sets what depends on the position in the run: random numbers and the norm."""
        # Own random numbers for every batch and process make the generator's state a function of
        # the position, so there is none to save.
        key = (self.config.trainer.seed, self.global_rank, self.current_epoch, batch_idx)
        digest = hashlib.blake2b(repr(key).encode(), digest_size=7).digest()
        seed = int.from_bytes(digest, "little")
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        self.annealing.apply(self.step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch; all it reports is added to the epoch's means."""
        # The norm is a constant of compiled code, and while it is annealed it changes too often to
        # compile that anew every time.
        plain = self.annealing.current == 1
        report = (self._compiled[0] if self._compiled and plain else self.task)(batch)
        loss = report["loss"]
        # A copy, because CUDA graphs put the loss of the next step in the same place.
        self.guard.watch(self.step + 1, loss.detach().clone(), self.trainer.world_size)
        _accumulate(self._train_sums, report, len(batch[0]))
        return loss

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Takes one step at the scheduled learning rate and updates the moving average."""
        factor = self.schedule(self.step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        step = self.step + 1
        try:
            optimizer.step(closure=optimizer_closure)
        except GradientError as error:
            raise TrainingError(f"{error} {self._position(step)}") from error
        (own,) = self.trainer.optimizers
        if isinstance(own, AdaptiveLocalLR) and own.largest_norm is not None:
            self.guard.record(step, "grad", own.largest_norm)
        # The loop would clear them after the next forward, which needs the memory, and which writes
        # over them where it is a CUDA graph.
        own.zero_grad()
        if self.ema is not None:
            self._average(self.ema)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Limits the norm of the gradients, for networks that learn side by side each its own."""
        if gradient_clip_val is not None:
            for learner in self.task.learners():
                torch.nn.utils.clip_grad_norm_(learner.parameters, gradient_clip_val)

    @torch.no_grad()
    def _average(self, ema: AveragedModel) -> None:
        # Not `ema.update_parameters`, which asks the device at every step whether it is the first,
        # and goes through the counters of batches one by one.
        assert self.config.trainer.ema is not None
        averages, counters = _numbers(ema.module)
        current, counted = _numbers(self.task.model)
        weight = 1.0 if self.step == 0 else 1 - self.config.trainer.ema
        torch._foreach_lerp_(averages, current, weight)
        if counters:
            torch._foreach_copy_(counters, counted)
        ema.n_averaged += 1

    # --- guards -------------------------------------------------------------------------------

    def check_finite(self) -> None:
        """Refuse a state that is not finite.

        Raises:
            TrainingError: A loss since the last call, or a weight, is not finite.
        """
        self.guard.check(self.step, self.task.state_dict(), self.trainer.world_size)

    def _position(self, step: int) -> str:
        epoch = (step - 1) // self.steps_per_epoch + 1
        return f"at step {step} (epoch {epoch} of {self.config.trainer.epochs})"

    # --- held-out data and the end of an epoch ------------------------------------------------

    def on_validation_start(self) -> None:
        """Gives all processes the running statistics of the first."""
        self._held_sums = {}
        self.annealing.apply(self.step)
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch of held-out data to its means."""
        _accumulate(self._held_sums, self.task.test(self.network, batch), len(batch[0]))

    def finish_epoch(self) -> Row:
        """Closes the epoch: its row, which is also added to the history."""
        seconds = self._elapsed()
        self._seconds, self._since = 0.0, time.perf_counter()
        row: Row = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            "lr": self.config.optimizer.lr * self.schedule(self.step - 1),
        }
        if self.config.p_annealing.start > 1:
            row["norm"] = self.annealing.exponent(self.step)
        for name, sums in (("train", self._train_sums), (self.held_out, self._held_sums)):
            row |= {f"{name}_{key}": value for key, value in _means(self._total(sums)).items()}
        row["seconds"] = round(seconds, 3)
        self._train_sums, self._held_sums = {}, {}
        self.history.append(row)
        return row

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._since

    def _total(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.trainer.world_size == 1 or not sums:
            return sums
        stacked = torch.stack(list(sums.values()))
        torch.distributed.all_reduce(stacked)
        return dict(zip(sums, stacked.unbind(), strict=True))

    # --- checkpoints --------------------------------------------------------------------------

    def on_save_checkpoint(self, content: dict[str, Any]) -> None:
        """Adds what mulfree needs to go on and what it reads back without the loop."""
        sums = {key: float(value) for key, value in self._total(self._train_sums).items()}
        content[checkpoint.KEY] = {
            "format": checkpoint.FORMAT,
            "config": self.config.to_dict(),
            "recipe": self.recipe,
            "network": checkpoint.NETWORKS[self.ema is not None],
            "teacher": self.teacher_recipe,
            "history": self.history,
            "train_sums": sums,
            "seconds": self._elapsed(),
        }

    def on_load_checkpoint(self, content: dict[str, Any]) -> None:
        """Takes up what `on_save_checkpoint` added."""
        own = content[checkpoint.KEY]
        self.history = list(own["history"])
        self._seconds = float(own["seconds"])
        # The sums are those of all processes together.
        share = 1.0 if self.global_rank == 0 else 0.0
        self._train_sums = {
            key: torch.tensor(share * value, dtype=torch.float64)
            for key, value in own["train_sums"].items()
        }


def _numbers(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What this process has of the numbers of a model: those with a fraction, and counters."""
    tensors = [local(tensor) for tensor in (*model.parameters(), *model.buffers())]
    return (
        [tensor for tensor in tensors if tensor.is_floating_point()],
        [tensor for tensor in tensors if not tensor.is_floating_point()],
    )


def _accumulate(sums: dict[str, Tensor], report: dict[str, Tensor], images: int) -> None:
    """Adds means over a batch to sums over images; "images" counts these."""
    if not sums:
        zeros = torch.zeros(len(report) + 1, dtype=torch.float64, device=report["loss"].device)
        sums.update(zip((*report, "images"), zeros.unbind(), strict=True))
    if len(sums) != len(report) + 1 or not sums.keys() >= report.keys():
        raise TrainingError(
            f"train: `train_sums` must be of {', '.join(report)} in the checkpoint, got "
            f"{quoted(list(sums))}"
        )
    for key, value in report.items():
        sums[key].add_(value.detach(), alpha=images)
    sums["images"].add_(images)


def _means(sums: dict[str, Tensor]) -> Row:
    images = float(sums["images"]) if sums else 0.0
    return {key: float(value) / images for key, value in sums.items() if key != "images"}
