from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tests.training.runs import assert_same, checkpoints_of, make_config

from mulfree.errors import ArtifactError, TrainingError
from mulfree.training import Checkpoint, load_checkpoint, model_of, train
from mulfree.training.run.checkpoint import save_checkpoint
from mulfree.training.run.module import RunModule
from mulfree.training.run.sealed import from_bytes

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The checkpoints of a run with a moving average after each of its four steps."""
    settings = {"epochs": 2, "accumulate_grad_batches": 2, "ema": 0.9, "checkpoint_every": 1}
    found = checkpoints_of(make_config(tmp_path_factory.mktemp("run"), trainer=settings))
    assert len(found) == 4
    return found


def rewritten(file: bytes, change: Change, path: Path) -> Checkpoint:
    """The checkpoint of a file, with a change, at `path`."""
    content = from_bytes(file)
    change(content)
    save_checkpoint(content, path)
    return load_checkpoint(path)


def put(*keys: Any, value: Any) -> Change:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def without(*keys: Any) -> Change:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


FIT = ("loops", "fit_loop")
STEPS = (*FIT, "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total")
MOMENTUM = ("optimizer_states", 0, "state", 0, "momentum_buffer")
WEIGHT = ("state_dict", "task.model.conv1.weight")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("global_step", value="x"), "'x' is not a number of steps"),
        (put("global_step", value=-1), "-1 is not a number of steps"),
        (without("global_step"), "'global_step'"),
        (put("state_dict", value=[]), r"`state_dict` is \[\]"),
        (put("state_dict", value={1: torch.zeros(1)}), "1 in `state_dict` is no tensor with a na"),
        (put(*WEIGHT, value=3), "'task.model.conv1.weight' in `state_dict` is no tensor"),
        (put("mulfree", "network", value="task.teacher."), "`network` is 'task.teacher.'"),
        (put("mulfree", "format", value="mulfree.checkpoint/9"), "checkpoint of mulfree train"),
        (put("mulfree", "config", value={"trainer": {"gpus": 8}}), "unknown option 'trainer.gpus'"),
        (put("mulfree", "history", value=[3]), r"\[3\] is not a list of tables"),
        (put("mulfree", "history", value=[{"epoch": True}]), "True is not a number"),
        (put("mulfree", "seconds", value=None), "None is not a number"),
        (put("mulfree", "train_sums", value=3), r"\[3\] is not a list of tables"),
        (put("mulfree", "train_sums", value={"loss": "x"}), "'x' is not a number"),
        (put("mulfree", "recipe", value=3), "it is not a table"),
        (put("mulfree", "teacher", value={"name": "lenet5_bn"}), "'arguments'"),
        (put("mulfree", "config", value=[]), r"`values` must be a table, got \[\]"),
        (
            put("mulfree", "config", "model", "options", value={"width": {"a": {"b": {}}}}),
            "`model.options` must be dict of dict of",
        ),
        (put("x", value=2**64), "18446744073709551616 is too large"),
        (put("x", value=torch.zeros(1).expand(2**40)), "a tensor has more elements than the file"),
        (put("x", value=torch.zeros(1, device="meta")), "a tensor is not plain"),
        (put("x", value=torch.Size([1])), "a Size is no plain value"),
    ],
)
def test_what_no_run_has_saved_is_not_read(
    change: Change, message: str, saved: list[bytes], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=message):
        rewritten(saved[0], change, tmp_path / "last.ckpt")


def test_values_without_end_and_of_any_depth(saved: list[bytes], tmp_path: Path) -> None:
    bomb: list[Any] = ["x"]
    for _ in range(10):
        bomb = [bomb] * 10
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    for value, message in ((bomb, "more than 1048576 values"), (deep, "nested deeper than 32")):
        with pytest.raises(ArtifactError, match=message):
            rewritten(saved[0], put("x", value=value), tmp_path / "last.ckpt")


def test_a_network_is_compared_before_it_is_built(
    saved: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = put("mulfree", "recipe", value={"name": "resnet18", "arguments": {"width": 64}})
    checkpoint = rewritten(saved[0], change, tmp_path / "last.ckpt")
    # 12 GB, were it built.
    with pytest.raises(ArtifactError, match=r"hold (all|no) tensors"):
        model_of(checkpoint)
    with pytest.raises(ArtifactError, match=r"hold (all|no) tensors"):
        train(checkpoint.config, checkpoint)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, put("global_step", value=2), "`history` is 0"),
        (0, put("global_step", value=9), "`global_step` is 9"),
        (0, put(*STEPS, "completed", value=0), "`global_step` is 0"),
        (0, put(*STEPS, "completed", value="x"), "`completed` is 'x'"),
        (0, put(*FIT, "state_dict", value={}), "'combined_loader' in state_dict is missing"),
        (0, put(*FIT, "state_dict", "combined_loader", 0, "batch", value=99), "`batch` is {.*: 99"),
        (0, put(*FIT, "state_dict", "combined_loader", value=[]), r"`combined_loader` is \[\]"),
        (0, put(*FIT, value=torch.zeros(1)), "`fit_loop` is tensor"),
        (0, put(*FIT, "x", value=1), "'x' in loops is not known|'x' in fit_loop is not known"),
        (0, put(*FIT, "epoch_progress", "current", "ready", value=-1), "`loops` is -1"),
        (
            0,
            put(*FIT, "epoch_progress", "current", "ready", value=2**62),
            "`loops` is 46116860184",
        ),
        (0, put("loops", value=None), "`loops` is None"),
        (0, put("epoch", value=7), "`epoch` is 7"),
        (0, put("x", value=1), "'x' in it is not known"),
        (0, without("lr_schedulers"), "'lr_schedulers' in it is missing"),
        (0, put("lr_schedulers", value=[{}]), r"`lr_schedulers` is \[{}\]"),
        (0, put("callbacks", value={"x": {}}), "'x' in callbacks is not known"),
        (0, put("pytorch-lightning_version", value="x"), "`pytorch-lightning_version` is 'x'"),
        (0, without(*WEIGHT), "conv1.weight' is missing|conv1.weight' in state_dict is missing"),
        (0, put("state_dict", "x", value=torch.zeros(1)), "'x' in state_dict is not known"),
        (0, put(*WEIGHT, value=torch.zeros(2)), r"`task.model.conv1.weight` is \[2\]"),
        (0, put(*WEIGHT, value=torch.zeros(2, 3, 5, 5).half()), r"conv1.weight` is \[2, 3"),
        (0, put("optimizer_states", value=[]), r"`optimizer_states` is \[\]"),
        (0, put("optimizer_states", 0, value=3), "`optimizer_states` is 3"),
        (0, put("optimizer_states", 0, "param_groups", value=3), "`param_groups` is 3"),
        (0, put("optimizer_states", 0, "param_groups", value=[{}]), "`param_groups` is None"),
        (0, put("optimizer_states", 0, "state", value=[]), r"`state` is \[\]"),
        (0, put("optimizer_states", 0, "state", 99, value={}), "`state` is 99"),
        (
            0,
            put("optimizer_states", 0, "state", 0, value={}),
            "'momentum_buffer' in state is mis",
        ),
        (0, put(*MOMENTUM, value=torch.zeros(1)), "`momentum_buffer` is tensor"),
        (0, put(*MOMENTUM, value=None), "`momentum_buffer` is None"),
        (0, put("mulfree", "network", value="task.model."), "`network` is 'task.model.'"),
        (0, put("mulfree", "seconds", value=math.nan), "`seconds` is nan"),
        (0, put("mulfree", "train_sums", value={}), "`train_sums` is {}"),
        (0, put("mulfree", "train_sums", value={"x": 1.0}), "`train_sums` is {'x': 1.0}"),
        (0, put("mulfree", "train_sums", "images", value=0.0), "`images` is 0.0"),
        (0, put("mulfree", "history", value=[{"epoch": 1}]), "`history` is 1"),
        (0, put("mulfree", "config", "model", "options", value={"width": 0.5}), "its network is n"),
        (1, without("mulfree", "history", 0, "test_accuracy"), "`history` is {'epoch"),
        (1, put("mulfree", "history", 0, "epoch", value=2), "`epoch` is 2"),
        (1, put("mulfree", "history", 0, "seconds", value=math.inf), "`seconds` is inf"),
        (1, put("mulfree", "train_sums", value={"loss": 1.0, "images": 1.0}), "`train_sums` is {"),
    ],
)
def test_what_this_run_has_not_saved_is_not_gone_on_from(
    number: int, change: Change, message: str, saved: list[bytes], tmp_path: Path
) -> None:
    checkpoint = rewritten(saved[number], change, tmp_path / "last.ckpt")
    with pytest.raises(ArtifactError, match=f"(a complete checkpoint|its network).*({message})"):
        train(checkpoint.config, checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_sums_of_another_task_end_the_run(saved: list[bytes], tmp_path: Path) -> None:
    change = put("mulfree", "train_sums", value={"loss": 1.0, "images": 1.0})
    checkpoint = rewritten(saved[0], change, tmp_path / "last.ckpt")
    with pytest.raises(TrainingError, match=r"`train_sums` must be of loss, .* in the checkpoint"):
        train(checkpoint.config, checkpoint)


def test_what_the_configuration_decides_is_not_taken_from_a_checkpoint(
    saved: list[bytes], tmp_path: Path
) -> None:
    def change(content: dict[str, Any]) -> None:
        (group,) = content["optimizer_states"][0]["param_groups"]
        group |= {"momentum": 0.0, "weight_decay": 1e9, "fused": "x", "nesterov": True}
        content["optimizer_states"][0]["eta"] = "x"

    results = []
    for made in (lambda content: None, change):
        checkpoint = rewritten(saved[0], made, tmp_path / "last.ckpt")
        assert train(checkpoint.config, checkpoint).finished
        results.append(load_checkpoint(checkpoint.path).network)
    assert_same(results[0], results[1])


def test_an_error_while_a_loop_takes_its_state_is_one_line(
    saved: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = rewritten(saved[0], lambda content: None, tmp_path / "last.ckpt")
    fail = mock.Mock(side_effect=AttributeError("something unforeseen"))
    monkeypatch.setattr(RunModule, "on_load_checkpoint", fail)
    with pytest.raises(ArtifactError, match=r"complete checkpoint \(something unforeseen\)"):
        train(checkpoint.config, checkpoint)
