"""Synchronisation of a step with the device: on an accelerator it waits for nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import assert_same, bad_gradient, make_config, spoil
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mulfree import models
from mulfree.errors import TrainingError
from mulfree.training import Batch, TrainConfig, load_checkpoint, train
from mulfree.training.methods import supervised
from mulfree.training.optim import local_lr
from mulfree.training.run import guard
from mulfree.training.run.module import RunModule

# Operators that hand a number to the host, or whose result has a size that it must know.
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal")
# What makes a tensor of numbers on the host, which then have to be sent.
SENDS = ("aten::lift_fresh",)


class Operators(TorchDispatchMode):
    """Counts the operators that wait for a device, or would, if numbers were on one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name() in READS + SENDS
        return func(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Counts what reads many numbers at once, which on a CPU is no operator."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (Tensor.tolist, Tensor.numpy, Tensor.cpu)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def _far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the CPU be treated like an accelerator."""
    for place in (guard, local_lr):
        monkeypatch.setattr(place, "readable", lambda device: False)


def config(directory: Path, limit: int = 64, **trainer: Any) -> TrainConfig:
    return make_config(directory, data={"limit": limit}, trainer={"epochs": 1, **trainer})


def waits(directory: Path, limit: int, **trainer: Any) -> int:
    with Operators() as operators, Lists() as lists:
        train(config(directory, limit, log_every=1000, **trainer))
    return int(operators.count + lists.count)


@pytest.mark.usefixtures("_far_away")
@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {
            "ema": 0.5,
            "gradient_clip_norm": 1.0,
            "precision": "bf16-mixed",
            "accumulate_grad_batches": 2,
        },
    ],
)
def test_more_steps_wait_no_more_often(tmp_path: Path, trainer: dict[str, Any]) -> None:
    few, many = (waits(tmp_path / str(n), n, **trainer) for n in (64, 192))
    assert few == many
    # The first step and the end of an epoch do; so the recorder sees what it is to see.
    assert few > 0


def test_on_a_cpu_every_step_is_looked_at(tmp_path: Path) -> None:
    few, many = (waits(tmp_path / str(n), n) for n in (64, 128))
    # At the loss and at the gradients of each of four more steps.
    assert many >= few + 2 * 4


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_steps_on_a_gpu_never_wait(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = supervised.Method.forward
    begun: list[int] = []

    def guarded(self: supervised.Method, batch: Batch) -> dict[str, Tensor]:
        begun.append(len(begun) + 1)
        # From the third step on, when everything is compiled and cached, to the sixth.
        if begun[-1] in (3, 6):
            torch.cuda.set_sync_debug_mode("error" if begun[-1] == 3 else "default")
        return forward(self, batch)

    monkeypatch.setattr(supervised.Method, "forward", guarded)
    trainer = {"accelerator": "cuda", "ema": 0.5, "gradient_clip_norm": 1.0, "precision": precision}
    try:
        result = train(config(tmp_path, limit=128, log_every=1000, **trainer))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.finished


@pytest.mark.usefixtures("_far_away")
def test_the_same_run_near_and_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config(tmp_path / "far", log_every=3))
    monkeypatch.undo()
    train(config(tmp_path / "near"))
    far, near = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("far", "near"))
    assert_same(far.content["state_dict"], near.content["state_dict"])
    assert_same(far.history, near.history)


@pytest.mark.usefixtures("_far_away")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda loss: loss * math.nan, r"`loss` must be finite, got nan at step 5 \(epoch 2 of 3"),
        (bad_gradient, r"`grad` must have a finite norm, got nan at step 5 \(epoch 2 of 3"),
    ],
)
@pytest.mark.parametrize(
    ("options", "noticed"),
    [
        # At the next step that is looked at, at the next checkpoint, and at the end of the epoch.
        ({"log_every": 6}, 6),
        ({"log_every": 100, "checkpoint_every": 3}, 6),
        ({"log_every": 100}, 8),
    ],
)
def test_what_is_not_finite_is_told_later_and_never_saved(
    how: Callable[[Tensor], Tensor],
    message: str,
    options: dict[str, Any],
    noticed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = spoil(monkeypatch, 5, how)
    with pytest.raises(TrainingError, match=rf"{message}\); the last good checkpoint is "):
        train(config(tmp_path, epochs=3, **options))
    assert begun[-1] == noticed
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint.step == 4
    assert all(tensor.isfinite().all() for tensor in checkpoint.network.values())
    # The first step is always looked at.
    begun = spoil(monkeypatch, 1, lambda loss: loss * math.nan)
    with pytest.raises(TrainingError, match=r"`loss` must be finite, got nan at step 1 \(epoch 1"):
        train(config(tmp_path / "first"))
    assert begun == [1]


@pytest.mark.usefixtures("_far_away")
def test_a_logged_loss_is_that_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    forward = supervised.Method.forward

    def recorded(self: supervised.Method, batch: Batch) -> dict[str, Tensor]:
        report = forward(self, batch)
        losses.append(float(report["loss"].detach()))
        return report

    shown: list[float] = []
    after = RunModule.optimizer_step

    def step(self: RunModule, *args: Any, **kwargs: Any) -> None:
        after(self, *args, **kwargs)
        shown.append(self.guard.loss)

    monkeypatch.setattr(supervised.Method, "forward", recorded)
    monkeypatch.setattr(RunModule, "optimizer_step", step)
    train(config(tmp_path, log_every=2))
    assert shown == [losses[0], losses[1], losses[1], losses[3]]


def test_gradients_are_freed_after_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = supervised.Method.forward

    def checked(self: supervised.Method, batch: Batch) -> dict[str, Tensor]:
        assert all(p.grad is None for p in self.parameters())
        return forward(self, batch)

    monkeypatch.setattr(supervised.Method, "forward", checked)
    assert train(config(tmp_path)).finished


def test_processes_leave_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure or a stop on another rank counts, even if nothing has happened here."""
    settings = make_config()
    network = models.create_model("lenet5_bn", operator="adder2d", width=0.25)
    task = supervised.Method(network, supervised.Config())
    run = RunModule(task, settings, steps_per_epoch=4, held_out="test", model_config={})
    theirs = torch.tensor([math.inf, 0.0], dtype=torch.float64)

    def all_reduce(flags: Tensor, how: Any) -> None:
        assert how == torch.distributed.ReduceOp.MIN
        flags.copy_(torch.minimum(flags, theirs))

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    run.guard.watch(3, torch.tensor(0.5), 2)
    assert (run.guard.loss, run.guard.stopping) == (0.5, False)
    theirs[1] = -1.0
    run.guard.watch(3, torch.tensor(0.25), 2)
    assert (run.guard.loss, run.guard.stopping) == (0.25, True)
    theirs[0] = 3.0
    message = r"`loss` must be finite, but is not in another process at step 3 \(epoch 1 of 2\)"
    with pytest.raises(TrainingError, match=message):
        run.guard.watch(3, torch.tensor(0.5), 2)
