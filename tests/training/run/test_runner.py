from __future__ import annotations

import csv
import errno
import importlib.util
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tests.training.runs import assert_same, make_config
from torch import Tensor

from mulfree import data, models
from mulfree.cli.main import main
from mulfree.errors import ConfigError, TrainingError
from mulfree.files import locked
from mulfree.training import (
    Batch,
    TrainConfig,
    evaluate,
    load_checkpoint,
    load_model,
    read_config,
    train,
)
from mulfree.training.methods import supervised
from mulfree.training.run import callbacks, devices, results, runner
from mulfree.training.run import directory as run_directory
from mulfree.training.run.checkpoint import save_checkpoint
from mulfree.training.run.network import build_method

FILES = ["best.ckpt", "config.yaml", "curves.png", "last.ckpt", "metrics.csv", "metrics.json"]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_files_of_a_run(tmp_path: Path) -> None:
    config = make_config(tmp_path / "a" / "run", trainer={"tensorboard": True, "log_every": 2})
    result = train(config)
    directory = result.directory
    assert directory == tmp_path / "a" / "run"
    assert names(directory) == [*FILES, "model.safetensors", "tensorboard"]
    assert (result.finished, result.step) == (True, 8)

    stored = read_config(["--config", str(directory / "config.yaml")])
    assert stored == replace(config, trainer=replace(config.trainer, output=None))

    with (directory / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8")]
    for row, logged in zip(result.history, rows, strict=True):
        assert {key: float(value) for key, value in logged.items()} == row
    assert list(rows[0]) == [
        *("epoch", "step", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy"),
        "seconds",
    ]

    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics == result.metrics
    last = result.history[-1]
    assert metrics["test_accuracy"] == last["test_accuracy"]
    best = max(row["test_accuracy"] for row in result.history)
    assert metrics["best_test_accuracy"] == best
    assert (metrics["seed"], metrics["epochs"], metrics["steps"]) == (0, 2, 8)
    assert metrics["environment"]["versions"]["torch"] == torch.__version__
    assert load_checkpoint(directory / "best.ckpt").history[-1]["epoch"] == metrics["best_epoch"]

    with Image.open(directory / "curves.png") as image:
        assert image.size == (1080, 432)

    events = EventAccumulator(str(directory / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("step/loss")] == [2, 4, 6, 8]
    assert [event.step for event in events.Scalars("test/accuracy")] == [4, 8]
    assert events.Scalars("train/loss")[1].value == pytest.approx(last["train_loss"])


def test_the_saved_network_has_the_reported_accuracy(tmp_path: Path) -> None:
    config = make_config(tmp_path, trainer={"ema": 0.5})
    result = train(config)
    splits = data.load(config.data)
    loader = data.BatchLoader(splits.test, 100, train=False, transform=splits.test_transform)
    measured = evaluate(load_model(tmp_path / "model.safetensors"), loader)
    assert measured.accuracy == pytest.approx(result.metrics["test_accuracy"])
    assert measured.loss == pytest.approx(result.metrics["test_loss"], rel=1e-5)


def test_a_run_is_what_a_plain_loop_computes(tmp_path: Path) -> None:
    """Two epochs of the configuration, written out with torch alone."""
    config = make_config(
        tmp_path,
        optimizer={"name": "nag", "local_lr_eta": 0.3},
        trainer={"ema": 0.75, "gradient_clip_norm": 0.5},
    )
    result = train(config)
    splits = data.load(config.data)
    torch.manual_seed(0)
    model = build_method(config, splits).model
    average = [p.detach().clone() for p in model.parameters()]
    loader = data.BatchLoader(splits.train, 16, train=True, transform=splits.train_transform)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    adders = [m.weight for m in model.modules() if type(m).__name__ == "Adder2d"]
    losses = []
    step = 0
    for _ in range(2):
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            for weight in adders:
                assert isinstance(weight, Tensor)
                assert weight.grad is not None
                weight.grad.mul_(0.3 * math.sqrt(weight.numel()) / weight.grad.norm())
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 8))
            optimizer.step()
            step += 1
            for mean, p in zip(average, model.parameters(), strict=True):
                mean.copy_(p.detach()) if step == 1 else mean.lerp_(p.detach(), 0.25)
    assert len(adders) > 0
    state = load_checkpoint(tmp_path / "last.ckpt").content["state_dict"]
    for (name, p), mean in zip(model.named_parameters(), average, strict=True):
        torch.testing.assert_close(state[f"task.model.{name}"], p.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state[f"ema.module.{name}"], mean, rtol=1e-4, atol=1e-5)
    assert result.history[1]["train_loss"] == pytest.approx(sum(losses[4:]) / 4, rel=1e-5)


def test_a_run_is_reproducible_and_the_seed_matters(tmp_path: Path) -> None:
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)
        train(make_config(tmp_path / name, trainer={"epochs": 1, "seed": seed}))
        states.append(load_checkpoint(tmp_path / name / "last.ckpt").content["state_dict"])
    assert_same(states[0], states[1])
    key = next(iter(states[0]))
    assert not torch.equal(states[0][key], states[2][key])


def test_accumulation_takes_a_step_every_few_batches_and_at_the_end(tmp_path: Path) -> None:
    result = train(make_config(tmp_path, trainer={"accumulate_grad_batches": 3}))
    assert [row["step"] for row in result.history] == [2, 4]
    # The schedule counts steps, not batches: the last one of four is at 3/4 of half a cosine.
    assert result.history[-1]["lr"] == pytest.approx(0.05 * (1 + math.cos(math.pi * 3 / 4)))


def test_held_out_images_choose_and_test_images_report(tmp_path: Path) -> None:
    result = train(make_config(tmp_path, data={"validation": 0.25}))
    assert "validation_accuracy" in result.history[0]
    assert "test_accuracy" not in result.history[0]
    assert "best_validation_accuracy" in result.metrics
    splits = data.load(make_config(data={"validation": 0.25}).data)
    loader = data.BatchLoader(splits.test, 100, train=False, transform=splits.test_transform)
    measured = evaluate(load_model(tmp_path / "model.safetensors"), loader)
    assert result.metrics["test_accuracy"] == pytest.approx(measured.accuracy)


def test_epochs_with_another_norm_are_never_the_best(tmp_path: Path) -> None:
    result = train(make_config(tmp_path, p_annealing={"start": 2.0, "fraction": 1.0}))
    assert [row["norm"] for row in result.history] == [1.5, 1.0]
    assert result.metrics["best_epoch"] == 2
    assert models.config_of(load_model(tmp_path / "best.ckpt")).name == "lenet5_bn"


def test_a_compiled_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_config(tmp_path / "plain", trainer={"epochs": 1})
    train(plain)
    # The eager backend needs no compiler; what matters here is that names and results stay.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    train(make_config(tmp_path / "compiled", trainer={"epochs": 1, "compile": True}))
    one, other = (load_checkpoint(tmp_path / n / "last.ckpt") for n in ("plain", "compiled"))
    assert_same(one.content["state_dict"], other.content["state_dict"])


def test_new_runs_get_directories_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [train(make_config(trainer={"epochs": 1})).directory for _ in range(3)]
    names = ["", "-2", "-3"]
    assert found == [Path("runs", f"synthetic_lenet5_bn_adder2d{name}") for name in names]


def test_a_directory_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    config = make_config(tmp_path, trainer={"epochs": 1})
    train(config)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    pattern = r"`trainer.output` must be a directory without a run, got .*--resume"
    with pytest.raises(ConfigError, match=pattern):
        train(config)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_directory_is_of_one_run_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = rf"be a directory that no other run uses, got {tmp_path}.* \(process {os.getpid()}\)"
    config = make_config(tmp_path / "new", trainer={"epochs": 1})
    with locked_directory(tmp_path / "new"), pytest.raises(ConfigError, match=pattern):
        train(config)
    assert names(tmp_path / "new") == []
    train(config)
    assert names(tmp_path / "new") == [*FILES, "model.safetensors"]
    checkpoint = load_checkpoint(tmp_path / "new" / "last.ckpt")
    part = tmp_path / "new" / ".0.part"
    part.touch()
    with locked_directory(tmp_path / "new"), pytest.raises(ConfigError, match=pattern):
        train(checkpoint.config, checkpoint)
    # What the other run is writing is left alone.
    assert part.exists()
    # The other processes of a run have no lock of their own.
    monkeypatch.setattr(run_directory, "is_main_process", lambda: False)
    with locked_directory(tmp_path / "new"), ExitStack() as kept:
        assert (
            run_directory.resumed_directory(checkpoint.config, checkpoint, kept) == tmp_path / "new"
        )


@contextmanager
def locked_directory(directory: Path) -> Iterator[None]:
    directory.mkdir(exist_ok=True)
    with locked(directory):
        yield


def test_a_run_keeps_its_directory_until_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def look(*args: Any) -> None:
        seen.append((tmp_path / "run" / ".lock").exists())
        with pytest.raises(BlockingIOError), locked(tmp_path / "run"):
            pass

    monkeypatch.setattr(results, "write_json", look)
    train(make_config(tmp_path / "run", trainer={"epochs": 1}))
    assert seen == [True]
    assert not (tmp_path / "run" / ".lock").exists()


def test_runs_that_start_at_once_get_directories_of_their_own(tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "run"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(run_directory._numbered, [wanted] * 32))
    others = {wanted.with_name(f"run-{number}") for number in range(2, 33)}
    assert found == {wanted, *others}


@pytest.mark.parametrize("when", ["at a step", "at the end"])
def test_a_directory_that_is_deleted_is_one_line(
    when: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "run"
    settings = {"checkpoint_every": 1, "epochs": 1, "tensorboard": True}
    config = make_config(directory, trainer=settings)
    (tmp_path / "f.yaml").write_text(config.to_yaml())

    def deleted(result: Any) -> Any:
        shutil.rmtree(directory)
        return result

    if when == "at a step":
        spoil(monkeypatch, 2, lambda task, loss: deleted(loss))
    else:
        metrics = results.final_metrics
        monkeypatch.setattr(runner, "final_metrics", lambda *args: deleted(metrics(*args)))
    assert main(["train", "--config", str(tmp_path / "f.yaml")]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"mulfree train: error: No such file or directory: {directory}/")
    assert err.count("\n") == 1


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pattern = r"`trainer.output` must be a writable directory, got .*run: Not a directory"
    with pytest.raises(ConfigError, match=pattern):
        train(make_config(tmp_path / "file" / "run"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trainer": {"devices": 4096}}, "`trainer.devices` must be at most the .* of this mach"),
        (
            {"trainer": {"precision": "16-mixed", "accelerator": "cpu"}},
            "`trainer.precision` must be 32-true, 64-true or bf16-mixed on a CPU, got 16-mixed",
        ),
        ({"model": {"name": "lenet6"}}, "`name` must be one of .*, got 'lenet6'; did you mean"),
        ({"model": {"operator": "add"}}, "`name` must be one of .*, got 'add'"),
        ({"model": {"options": {"depth": 3}}}, "`options` must be one of .*, got 'depth'"),
        ({"schedule": {"warmup": 2.0}}, "`warmup` must be shorter than the run of 2 epochs, got 2"),
        ({"data": {"name": "digit"}}, "`name` must be one of .*; did you mean 'digits'?"),
        ({"data": {"limit": 8}}, "`image_set` must hold at least 16 images"),
    ],
)
def test_bad_configurations_leave_nothing(
    tmp_path: Path, sections: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(make_config(tmp_path / "run", **sections))
    assert not (tmp_path / "run").exists()


def test_a_batch_must_be_divisible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    pattern = "`data.batch_size` must be a multiple of the 3 processes that share it, got 16"
    with pytest.raises(ConfigError, match=pattern):
        train(make_config(tmp_path, trainer={"devices": 3}))


# --- accelerators, here of a machine that only seems to have them -----------------------------


def seem(monkeypatch: pytest.MonkeyPatch, gpus: int, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")


def refused(tmp_path: Path, message: str, **sections: dict[str, Any]) -> None:
    """The run ends with one line, before there is anything of it."""
    with pytest.raises(ConfigError, match=message) as caught:
        train(make_config(tmp_path / "run", **sections))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_cuda_needs_a_torch_that_was_built_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = "`trainer.accelerator` must be cpu with a torch that was built without CUDA, got cuda"
    refused(tmp_path, message, trainer={"accelerator": "cuda"})


def test_cuda_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, 0)
    message = "`trainer.accelerator` must be cpu on a machine without a usable GPU, got cuda"
    refused(tmp_path, message, trainer={"accelerator": "cuda"})


def test_there_must_be_as_many_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, 2)
    message = "`trainer.devices` must be at most the 2 CUDA devices of this machine, got 3"
    refused(tmp_path, message, trainer={"accelerator": "auto", "devices": 3})


def test_adders_need_a_gpu_that_triton_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem(monkeypatch, 1, (7, 5))
    message = (
        "`trainer.accelerator` must be cpu for adder2d here, as the GPU kernels need compute "
        "capability 8.0, GPU 0 has 7.5, got auto"
    )
    refused(tmp_path, message, trainer={"accelerator": "auto"})


def test_adders_on_a_gpu_need_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"must be cpu for adder2d here, as the GPU kernels need triton: .*\[gpu\], got cuda"
    refused(tmp_path, message, trainer={"accelerator": "cuda"})


@pytest.mark.parametrize(
    ("capability", "operator", "accelerator"),
    [((8, 0), "adder2d", "auto"), ((7, 5), "conv2d", "cuda"), ((7, 5), "double adder2d", "cuda")],
)
def test_gpus_that_do(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], operator: str, accelerator: str
) -> None:
    seem(monkeypatch, 1, capability)
    precision = "64-true" if operator.startswith("double") else "32-true"
    config = make_config(
        trainer={"accelerator": accelerator, "precision": precision},
        model={"operator": operator.removeprefix("double ")},
    )
    assert devices.place_run(config).device == torch.device("cuda", 0)


def test_a_cpu_works_next_to_an_old_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, 1, (7, 5))
    assert devices.place_run(make_config(tmp_path)).device == torch.device("cpu")


def too_large(*args: Any) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_memory_that_is_too_small_for_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 6, too_large)
    config = make_config(tmp_path, trainer={"checkpoint_every": 1})
    message = (
        r"train: `data.batch_size` must be lower for the memory of cpu, got 16; the step stays the "
        r"same if `trainer.accumulate_grad_batches` \(1\) is raised as much"
    )
    spoiled_run(config, message, good_step=5)


def test_memory_that_is_too_small_for_a_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised.Method, "test", too_large)
    message = r"`data.eval_batch_size` must be lower for the memory of cpu, got \d+$"
    with pytest.raises(TrainingError, match=message):
        train(make_config(tmp_path))


def test_a_process_among_many_says_so_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first process waits for it, and is ended when it has failed.
    def last(*args: Any) -> Tensor:
        monkeypatch.setenv("RANK", "1")
        return too_large(*args)

    spoil(monkeypatch, 1, last)
    with pytest.raises(SystemExit, match=r"`data.batch_size` must be lower for the memory of cpu"):
        train(make_config(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LOCAL_WORLD_SIZE", "0", r"must be a whole number >= 1, got '0'$"),
        ("LOCAL_WORLD_SIZE", "-1", r"must be a whole number >= 1, got '-1'$"),
        ("WORLD_SIZE", "0", r"must be a whole number >= 1, got '0'$"),
        ("WORLD_SIZE", "9" * 5000, r"must be a whole number >= 1, got '9+...9+'$"),
        ("RANK", "\u0663", r"must be a whole number >= 0, got '\u0663'$"),
        ("RANK", "\u00b2", r"must be a whole number >= 0, got '\u00b2'$"),
        ("RANK", "7", r"must be below the 1 processes of LOCAL_WORLD_SIZE and WORLD_SIZE, got 7$"),
        ("LOCAL_RANK", "1", r"must be below the 1 processes of LOCAL_WORLD_SIZE and .*, got 1$"),
    ],
)
def test_variables_of_a_launcher_are_checked(
    name: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^train: environment variable `{name}` {message}"):
        train(make_config(tmp_path))


# --- what is not finite ----------------------------------------------------------------------


def spoil(
    monkeypatch: pytest.MonkeyPatch, step: int, how: Callable[[supervised.Method, Tensor], Tensor]
) -> None:
    """Lets `how` change the loss of a step."""
    forward = supervised.Method.forward
    calls = 0

    def spoiled(self: supervised.Method, batch: Batch) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        report = forward(self, batch)
        return report | {"loss": how(self, report["loss"])} if calls == step else report

    monkeypatch.setattr(supervised.Method, "forward", spoiled)


def spoiled_run(config: TrainConfig, message: str, good_step: int) -> None:
    assert config.trainer.output is not None
    directory = Path(config.trainer.output)
    with pytest.raises(TrainingError, match=message) as caught:
        train(config)
    last = directory / "last.ckpt"
    assert str(caught.value).endswith(f"; the last good checkpoint is {last}")
    checkpoint = load_checkpoint(last)
    assert checkpoint.step == good_step
    assert all(t.isfinite().all() for t in checkpoint.network.values())
    assert not list(directory.glob(".*"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    spoil(monkeypatch, 6, lambda task, loss: loss * value)
    config = make_config(tmp_path, trainer={"checkpoint_every": 1})
    message = rf"`loss` must be finite, got {value} at step 6 \(epoch 2 of 2\)"
    spoiled_run(config, message, good_step=5)


class BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * math.nan


def test_a_gradient_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 7, lambda task, loss: BadGradient.apply(loss))  # type: ignore[no-untyped-call]
    config = make_config(tmp_path, trainer={"checkpoint_every": 2})
    message = r"`grad` must have a finite norm, got nan .* at step 7 \(epoch 2 of 2\)"
    spoiled_run(config, message, good_step=6)


def test_weights_that_are_not_finite_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without adder layers nobody looks at gradients, and the loss of the last step is still good.
    spoil(monkeypatch, 8, lambda task, loss: BadGradient.apply(loss))  # type: ignore[no-untyped-call]
    config = make_config(tmp_path, model={"operator": "conv2d"})
    message = r"`model\..*` must stay finite, but is not at step 8 \(epoch 2 of 2\)"
    spoiled_run(config, message, good_step=4)


def test_without_a_checkpoint_there_is_no_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 1, lambda task, loss: loss * math.nan)
    with pytest.raises(TrainingError, match=r"got nan at step 1 \(epoch 1 of 2\)$"):
        train(make_config(tmp_path))


def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = 0

    def save(content: Any, path: Path) -> None:
        nonlocal saved
        saved += 1
        if saved == 3:
            monkeypatch.setattr(os, "fsync", full)
        save_checkpoint(content, path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(callbacks, "save_checkpoint", save)
    with pytest.raises(OSError, match=r"No space left on device: .*last.ckpt"):
        train(make_config(tmp_path, trainer={"checkpoint_every": 1}))
    assert load_checkpoint(tmp_path / "last.ckpt").step == 2
    assert not list(tmp_path.glob(".*"))
