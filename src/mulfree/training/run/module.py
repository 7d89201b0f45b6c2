"""LightningModule of a run: steps, moving average and epoch means around a training method."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from mulfree import models
from mulfree.errors import TrainingError
from mulfree.training.method import Batch, TrainingMethod, compile_method
from mulfree.training.optim.build import build_optimizer
from mulfree.training.optim.local_lr import AdaptiveLocalLR, GradientError
from mulfree.training.optim.p_annealing import PAnnealing
from mulfree.training.optim.schedule import Schedule
from mulfree.training.run import checkpoint
from mulfree.training.run.config import TrainConfig
from mulfree.training.run.guard import Guard, local
from mulfree.training.run.report import Row


class RunModule(LightningModule):
    """A training method and the state of its run.

    The run is a function of its configuration and of the state that a checkpoint holds: a run that
    was stopped and resumed continues bit for bit like one that was not.

    Args:
        method: The training method.
        config: The run.
        steps_per_epoch: Optimiser steps of an epoch.
        held_out: Name of the held-out data in the history.
        model_config: Configuration of the network, as `mulfree.models.config_of` returns it.
    """

    def __init__(
        self,
        method: TrainingMethod,
        config: TrainConfig,
        *,
        steps_per_epoch: int,
        held_out: str,
        model_config: dict[str, Any],
    ) -> None:
        super().__init__()
        # Checkpoints name the weights by this attribute.
        self.add_module("task", method)
        self.config = config
        self.held_out = held_out
        self.model_config = model_config
        self.companion_configs = {
            name: asdict(models.config_of(network)) for name, network in method.companions().items()
        }
        self.steps_per_epoch = steps_per_epoch
        epochs = config.trainer.epochs
        self.schedule = Schedule(
            config=config.schedule, epochs=epochs, steps_per_epoch=steps_per_epoch
        )
        self.ema: AveragedModel | None = None
        if config.trainer.ema is not None:
            self.ema = AveragedModel(method.model, use_buffers=True)
            self.ema.requires_grad_(False)
        # Created after the copy, whose layers are annealed too.
        self.annealing = PAnnealing(self, config.p_annealing, epochs * steps_per_epoch)
        # In a list: as an attribute the compiled module would be a second child with the weights.
        mode = str(config.trainer.compile)
        self._compiled = [] if mode == "none" else [compile_method(method, mode)]
        self.history: list[Row] = []
        self.guard = Guard(config.trainer.log_every, self._position)
        self._train = method.task.metrics.Means()
        self._held = method.task.metrics.Means()
        self._seconds = 0.0
        self._since = time.perf_counter()

    @property
    def method(self) -> TrainingMethod:
        """The training method."""
        return cast(TrainingMethod, self._modules["task"])

    @property
    def network(self) -> nn.Module:
        """The network that is evaluated and kept: the moving average where there is one."""
        return self.method.model if self.ema is None else self.ema.module

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return self.trainer.global_step

    @property
    def best(self) -> Row | None:
        """The epoch that is best on held-out data, among those with plain adders."""
        rows = [row for row in self.history if row.get("norm", 1.0) == 1.0]
        metrics = self.method.task.metrics
        choose = max if metrics.HIGHER_IS_BETTER else min
        return choose(rows, key=lambda row: row[f"{self.held_out}_{metrics.BEST}"], default=None)

    # --- one step -----------------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser; the schedule is applied at each step."""
        optimizer = build_optimizer(self.method, self.config.optimizer)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def on_train_start(self) -> None:
        """Start the clock, and move the sums of a checkpoint to the device."""
        self._train.to(self.device)
        self._since = time.perf_counter()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set what depends on the position in the run: random numbers and exponent."""
        # Random numbers of each batch and rank make the generator's state a function of the
        # position, so there is none to save.
        key = (self.config.trainer.seed, self.global_rank, self.current_epoch, batch_idx)
        digest = hashlib.blake2b(repr(key).encode(), digest_size=7).digest()
        seed = int.from_bytes(digest, "little")
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        self.annealing.apply(self.step)
        self.method.start_step(self.step, self.config.trainer.epochs * self.steps_per_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; its losses and metrics are added to the epoch's means."""
        # The exponent is a constant of compiled code; while annealed it changes too often to
        # compile that again every time.
        plain = self.annealing.current == 1
        values = (self._compiled[0] if self._compiled and plain else self.method)(batch)
        loss = values["loss"]
        # A copy, because CUDA graphs write the loss of the next step to the same memory.
        self.guard.watch(self.step + 1, loss.detach().clone(), self.trainer.world_size)
        self._train.update(values, self._count(batch))
        return loss

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take one step at the scheduled learning rate and update the moving average."""
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
        # The loop clears them only after the next forward, which needs the memory and, as a CUDA
        # graph, overwrites them.
        own.zero_grad()
        if self.ema is not None:
            self._average(self.ema)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient norm of each parameter group of the method by itself."""
        if gradient_clip_val is not None:
            for parameters in self.method.param_groups():
                torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    @torch.no_grad()
    def _average(self, ema: AveragedModel) -> None:
        # Not `ema.update_parameters`, which reads from the device at every step and updates the
        # counters of batches one by one.
        assert self.config.trainer.ema is not None
        averages, counters = _local_state(ema.module)
        current, counted = _local_state(self.method.model)
        weight = 1.0 if self.step == 0 else 1 - self.config.trainer.ema
        torch._foreach_lerp_(averages, current, weight)
        if counters:
            torch._foreach_copy_(counters, counted)
        ema.n_averaged += 1

    def check_finite(self) -> None:
        """Refuse a state that is not finite.

        Raises:
            TrainingError: A loss since the last call, or a weight, is not finite.
        """
        self.guard.check(self.step, self.method.state_dict(), self.trainer.world_size)

    def _position(self, step: int) -> str:
        epoch = (step - 1) // self.steps_per_epoch + 1
        return f"at step {step} (epoch {epoch} of {self.config.trainer.epochs})"

    def _count(self, batch: Batch) -> int:
        return self.method.task.targets.count(batch[1])

    # --- held-out data and the end of an epoch ------------------------------------------------

    def on_validation_start(self) -> None:
        """Copy the running statistics of the first rank to all others."""
        self._held = self.method.task.metrics.Means()
        self.annealing.apply(self.step)
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch of held-out data to its means."""
        self._held.update(self.method.test(self.network, batch), self._count(batch))

    def finish_epoch(self) -> Row:
        """Close the epoch; return its row, which is added to the history.

        Raises:
            TrainingError: The epoch has no held-out metrics.
        """
        seconds = self._elapsed()
        self._seconds, self._since = 0.0, time.perf_counter()
        row: Row = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            "lr": self.config.optimizer.lr * self.schedule(self.step - 1),
        }
        if self.config.p_annealing.start > 1:
            # The exponent, by its name in files.
            row["norm"] = self.annealing.exponent(self.step)
        for name, means in (("train", self._train), (self.held_out, self._held)):
            row |= {f"{name}_{key}": value for key, value in means.compute().items()}
        if f"{self.held_out}_{self.method.task.metrics.BEST}" not in row:
            # The loop counters of a damaged checkpoint can skip the evaluation.
            raise TrainingError(
                f"train: an epoch must end with an evaluation, got none in epoch {row['epoch']}"
            )
        row["seconds"] = round(seconds, 3)
        self._train, self._held = (self.method.task.metrics.Means() for _ in range(2))
        self.history.append(row)
        return row

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._since

    # --- checkpoints --------------------------------------------------------------------------

    def on_save_checkpoint(self, content: dict[str, Any]) -> None:
        """Add the state of the run, and the entries that are read without the loop."""
        content[checkpoint.KEY] = {
            "format": checkpoint.FORMAT,
            "config": self.config.to_dict(),
            "recipe": self.model_config,
            "network": checkpoint.NETWORKS[self.ema is not None],
            **self.companion_configs,
            "history": self.history,
            "train_sums": {key: float(value) for key, value in self._train.merged().items()},
            "seconds": self._elapsed(),
        }

    def on_load_checkpoint(self, content: dict[str, Any]) -> None:
        """Restore the state of the run."""
        own = content[checkpoint.KEY]
        self.history = list(own["history"])
        self._seconds = float(own["seconds"])
        # The sums are totals over all ranks.
        share = 1.0 if self.global_rank == 0 else 0.0
        self._train.sums = {
            key: torch.tensor(share * value, dtype=torch.float64)
            for key, value in own["train_sums"].items()
        }


def _local_state(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and buffers on this rank: floating-point tensors, and counters."""
    tensors = [local(tensor) for tensor in (*model.parameters(), *model.buffers())]
    return (
        [tensor for tensor in tensors if tensor.is_floating_point()],
        [tensor for tensor in tensors if not tensor.is_floating_point()],
    )
