from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tests.training.runs import assert_same, bad_gradient, make_config, spoil
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mulfree import data, models
from mulfree.cli.main import main
from mulfree.errors import ConfigError, TrainingError
from mulfree.files import locked
from mulfree.training import (
    evaluate,
    load_checkpoint,
    load_model,
    read_config,
    train,
)
from mulfree.training.methods import supervised
from mulfree.training.run import directory as run_directory
from mulfree.training.run import report, results, runner
from mulfree.training.run.network import build_method

FILES = ["best.ckpt", "config.yaml", "curves.png", "last.ckpt", "metrics.csv", "metrics.json"]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_files_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "write_curves", report.write_curves)
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


@pytest.mark.parametrize(
    ("held_out", "sections"),
    [("test", {"trainer": {"ema": 0.5}}), ("validation", {"data": {"validation": 0.25}})],
)
def test_the_saved_network_has_the_reported_accuracy(
    tmp_path: Path, held_out: str, sections: dict[str, Any]
) -> None:
    config = make_config(tmp_path, **sections)
    result = train(config)
    parts = {key.partition("_")[0] for key in result.history[0] if "_" in key}
    assert parts == {"train", held_out}
    assert f"best_{held_out}_accuracy" in result.metrics
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
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
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
            average.update_parameters(model)
    assert len(adders) > 0
    state = load_checkpoint(tmp_path / "last.ckpt").content["state_dict"]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[f"task.model.{name}"], tensor, rtol=1e-4, atol=1e-5)
        mean = average.module.state_dict()[name]
        # Batches are counted here; torch averages their number and cuts off the fraction.
        mean = mean if mean.is_floating_point() else tensor
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


def test_epochs_with_another_norm_are_never_the_best(tmp_path: Path) -> None:
    result = train(make_config(tmp_path, p_annealing={"start": 2.0, "fraction": 1.0}))
    assert [row["norm"] for row in result.history] == [1.5, 1.0]
    assert result.metrics["best_epoch"] == 2
    assert models.config_of(load_model(tmp_path / "best.ckpt")).name == "lenet5_bn"


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
    config = make_config(tmp_path, trainer={"epochs": 1})
    with locked(tmp_path), pytest.raises(ConfigError, match=pattern):
        train(config)
    assert names(tmp_path) == []
    written = report.write_json

    def write(*args: Any) -> None:
        # Until its end.
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
        written(*args)

    monkeypatch.setattr(results, "write_json", write)
    train(config)
    assert names(tmp_path) == [*FILES, "model.safetensors"]
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    part = tmp_path / ".0.part"
    part.touch()
    with locked(tmp_path), pytest.raises(ConfigError, match=pattern):
        train(checkpoint.config, checkpoint)
    # What the other run is writing is left alone.
    assert part.exists()
    # The other processes of a run have no lock of their own.
    monkeypatch.setattr(run_directory, "is_main_process", lambda: False)
    with locked(tmp_path), ExitStack() as kept:
        assert run_directory.resumed_directory(checkpoint.config, checkpoint, kept) == tmp_path


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
        spoil(monkeypatch, 2, deleted)
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


# --- runs that fail --------------------------------------------------------------------------


def too_large(*args: Any) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize(
    ("step", "how", "sections", "good_step", "message"),
    [
        (
            6,
            too_large,
            {},
            5,
            r"train: `data.batch_size` must be lower for the memory of cpu, got 16; the step stays "
            r"the same if `trainer.accumulate_grad_batches` \(1\) is raised as much",
        ),
        (6, lambda x: x * math.nan, {}, 5, r"`loss` must be finite, got nan at step 6 \(epoch 2"),
        (6, lambda x: x / 0, {}, 5, r"`loss` must be finite, got inf at step 6 \(epoch 2 of 2\)"),
        (7, bad_gradient, {}, 6, r"`grad` must have a finite norm, got nan .* at step 7 \(epoch 2"),
        # Without adder layers nobody looks at gradients, and the loss of the last step is good.
        (
            8,
            bad_gradient,
            {"model": {"operator": "conv2d"}, "trainer": {"checkpoint_every": None}},
            4,
            r"`model\..*` must stay finite, but is not at step 8 \(epoch 2 of 2\)",
        ),
    ],
)
def test_a_step_that_fails_keeps_the_last_good_checkpoint(
    step: int,
    how: Callable[[Tensor], Tensor],
    sections: dict[str, dict[str, Any]],
    good_step: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch, step, how)
    with pytest.raises(TrainingError, match=message) as caught:
        train(make_config(tmp_path, **{"trainer": {"checkpoint_every": 1}, **sections}))
    last = tmp_path / "last.ckpt"
    assert str(caught.value).endswith(f"; the last good checkpoint is {last}")
    checkpoint = load_checkpoint(last)
    assert checkpoint.step == good_step
    assert all(t.isfinite().all() for t in checkpoint.network.values())
    assert not list(tmp_path.glob(".*"))


def test_without_a_checkpoint_there_is_no_hint(
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
    def last(loss: Tensor) -> Tensor:
        monkeypatch.setenv("RANK", "1")
        return too_large()

    spoil(monkeypatch, 1, last)
    with pytest.raises(SystemExit, match=r"`data.batch_size` must be lower for the memory of cpu"):
        train(make_config(tmp_path))
