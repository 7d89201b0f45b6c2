"""Callbacks of a run: checkpoints, logs, progress and stopping."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter

from mulfree.training.run.checkpoint import (
    BEST,
    LAST,
    copy_checkpoint,
    save_checkpoint,
)
from mulfree.training.run.module import RunModule
from mulfree.training.run.progress import Display
from mulfree.training.run.report import METRICS_CSV, Row, write_csv

TENSORBOARD = "tensorboard"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(Exception):
    """The run was stopped on request and has saved its state."""


class CheckpointIO(TorchCheckpointIO):
    """Checkpoints that are written atomically, and a checked one to resume from.

    Attributes:
        content: Content of the checkpoint to resume from.
        restoring: Whether the loop has loaded it, and has not started yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[str, Any] | None = None
        self.restoring = False

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write to `path` atomically."""
        save_checkpoint(checkpoint, path)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Return the content to restore."""
        assert self.content is not None
        self.restoring = True
        content, self.content = self.content, None
        return content


class StopOnSignal:
    """Context in which Ctrl-C and SIGTERM make a run save and stop.

    A second signal interrupts at once.

    Args:
        request: Called at the first signal.
    """

    def __init__(self, request: Callable[[], None]) -> None:
        self._request = request
        self._requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopOnSignal:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            self._set(number, handler)

    def install(self) -> None:
        """Install the signal handlers."""
        for number in _SIGNALS:
            self._set(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        self._request()

    @staticmethod
    def _set(number: signal.Signals, handler: Any) -> None:
        # Only the main thread can set handlers, and only there signals arrive.
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, handler)


class RunFiles(Callback):
    """Files and progress of a run, and its end on request.

    A checkpoint is written after every epoch, and within an epoch if the configuration or a stop
    requires it, except after the last step: the checkpoint of the epoch follows at once.

    Args:
        directory: Directory of the run.
        display: Progress display.
        signals: Handlers to install once the loop has installed its own.
        checkpoints: Checkpoint to resume from.
    """

    def __init__(
        self, directory: Path, display: Display, signals: StopOnSignal, checkpoints: CheckpointIO
    ) -> None:
        self.directory = directory
        self.checkpoints = checkpoints
        self.display = display
        self.signals = signals
        self._writer: SummaryWriter | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the log and show the bar."""
        self.checkpoints.restoring = False
        self.signals.install()
        module = _run_module(pl_module)
        if not trainer.is_global_zero:
            return
        settings = module.config.trainer
        if settings.tensorboard:
            # Steps after the last checkpoint of a killed run are logged again.
            purge = module.step + 1 if module.step else None
            self._writer = SummaryWriter(str(self.directory / TENSORBOARD), purge_step=purge)
        self.display.start(module.schedule.total_steps, module.step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report the step, and save if it is due."""
        module = _run_module(pl_module)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        settings = module.config.trainer
        self.display.step(module.step, trainer.current_epoch + 1, module.guard.loss)
        if module.step % settings.log_every == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self._log({"step/loss": module.guard.loss, "step/lr": rate}, module.step)
        if batch_idx + 1 == trainer.num_training_batches:
            return
        every = settings.checkpoint_every
        if module.guard.stopping or (every is not None and module.step % every == 0):
            self._save(trainer, module)
        if module.guard.stopping:
            raise StoppedError

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the epoch: log, checkpoint, best checkpoint."""
        module = _run_module(pl_module)
        row = module.finish_epoch()
        self._save(trainer, module)
        if trainer.is_global_zero:
            if module.best is row:
                copy_checkpoint(self.directory / LAST, self.directory / BEST)
            write_csv(self.directory / METRICS_CSV, module.history)
            for part in ("train", module.held_out):
                values = {key: row[key] for key in row if key.startswith(f"{part}_")}
                self._log({key.replace("_", "/", 1): values[key] for key in values}, module.step)
            self.display.epoch(_line(row, module))
        if module.guard.stopping and module.step < module.schedule.total_steps:
            raise StoppedError

    def close(self) -> None:
        """Close the log and remove the bar; may be called at any time, also twice."""
        self.display.stop()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _save(self, trainer: Trainer, module: RunModule) -> None:
        module.check_finite()
        trainer.save_checkpoint(self.directory / LAST, weights_only=False)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        if self._writer is not None:
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, step)


def _run_module(module: LightningModule) -> RunModule:
    assert isinstance(module, RunModule)
    return module


def _line(row: Row, module: RunModule) -> str:
    epochs = module.config.trainer.epochs
    report = module.method.task.report
    parts = [report.epoch_line(row, part) for part in ("train", module.held_out)]
    epoch = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
    return "  ".join([epoch, *parts, f"{row['seconds']:.1f} s"])
