from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import make_config

from mulfree.errors import ArtifactError, TrainingError
from mulfree.training import load_checkpoint, model_of, train
from mulfree.training.run import callbacks
from mulfree.training.run.checkpoint import save_checkpoint
from mulfree.training.run.module import RunModule
from mulfree.training.run.sealed import from_bytes, to_bytes


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The checkpoints of a run with a moving average after each of its four steps."""
    found: list[bytes] = []

    def keep(content: Any, path: Any) -> None:
        found.append(to_bytes(dict(content)))
        save_checkpoint(content, path)

    directory = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "save_checkpoint", keep)
        settings = {"epochs": 2, "accumulate_grad_batches": 2, "ema": 0.9, "checkpoint_every": 1}
        train(make_config(directory, trainer=settings))
    assert len(found) == 4
    return found


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def without(*keys: Any) -> Callable[[dict[str, Any]], None]:
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
        (put("global_step", value=True), "True is not a number of steps"),
        (without("global_step"), "'global_step'"),
        (put("state_dict", value=[]), r"`state_dict` is \[\]"),
        (put("state_dict", value={1: torch.zeros(1)}), "1 in `state_dict` is no tensor with a na"),
        (put(*WEIGHT, value=3), "'task.model.conv1.weight' in `state_dict` is no tensor"),
        (put("mulfree", "network", value="task.teacher."), "`network` is 'task.teacher.'"),
        (put("mulfree", "network", value=[]), r"`network` is \[\]"),
        (put("mulfree", "history", value=[3]), r"\[3\] is not a list of tables"),
        (put("mulfree", "history", value=torch.zeros(2, 2)), "is not a list of tables"),
        (put("mulfree", "history", value=[{"epoch": True}]), "True is not a number"),
        (put("mulfree", "seconds", value=None), "None is not a number"),
        (put("mulfree", "train_sums", value=3), r"\[3\] is not a list of tables"),
        (put("mulfree", "train_sums", value={"loss": "x"}), "'x' is not a number"),
        (put("mulfree", "recipe", value=3), "it is not a table"),
        (put("mulfree", "teacher", value={"name": "lenet5_bn"}), "'arguments'"),
        (put("mulfree", "config", value=[]), r"`values` must be a table, got \[\]"),
        (
            put("mulfree", "config", "model", "options", value={"width": {"class_path": {}}}),
            "`model.options` must be dict of dict of",
        ),
        (put("x", value=2**64), "18446744073709551616 is too large"),
        (put("x", value=torch.zeros(1).expand(2**40)), "a tensor has more elements than the file"),
        (put("x", value=torch.zeros(1, device="meta")), "a tensor is not plain"),
        (put("x", value=torch.Size([1])), "a Size is no plain value"),
    ],
)
def test_what_no_run_has_saved_is_not_read(
    change: Callable[[dict[str, Any]], None], message: str, saved: list[bytes], tmp_path: Path
) -> None:
    content = from_bytes(saved[0])
    change(content)
    save_checkpoint(content, tmp_path / "last.ckpt")
    with pytest.raises(ArtifactError, match=message):
        load_checkpoint(tmp_path / "last.ckpt")


def test_values_without_end_and_of_any_depth(saved: list[bytes], tmp_path: Path) -> None:
    bomb: list[Any] = ["x"]
    for _ in range(10):
        bomb = [bomb] * 10
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    for value, message in ((bomb, "more than 1048576 values"), (deep, "nested deeper than 32")):
        save_checkpoint({**from_bytes(saved[0]), "x": value}, tmp_path / "last.ckpt")
        with pytest.raises(ArtifactError, match=message):
            load_checkpoint(tmp_path / "last.ckpt")


def test_a_network_is_compared_before_it_is_built(
    saved: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = from_bytes(saved[0])
    content["mulfree"]["recipe"] = {"name": "resnet18", "arguments": {"width": 64}}
    save_checkpoint(content, tmp_path / "last.ckpt")
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    # 12 GB, were it built.
    with pytest.raises(ArtifactError, match=r"hold (all|no) tensors"):
        model_of(checkpoint)
    with pytest.raises(ArtifactError, match=r"hold (all|no) tensors"):
        train(checkpoint.config, checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("global_step", value=2), "`history` is 0"),
        (put("global_step", value=9), "`global_step` is 9"),
        (put(*STEPS, "completed", value=0), "`global_step` is 0"),
        (put(*STEPS, "completed", value="x"), "`completed` is 'x'"),
        (put(*FIT, "state_dict", value={}), "'combined_loader' in state_dict is missing"),
        (
            put(*FIT, "state_dict", "combined_loader", 0, "batch", value=99),
            "`batch` is {.*'batch': 99",
        ),
        (put(*FIT, "state_dict", "combined_loader", value=[]), r"`combined_loader` is \[\]"),
        (put(*FIT, value=torch.zeros(1)), "`fit_loop` is tensor"),
        (put(*FIT, "x", value=1), "'x' in loops is not known|'x' in fit_loop is not known"),
        (put(*FIT, "epoch_progress", "current", "ready", value=-1), "`loops` is -1"),
        (put(*FIT, "epoch_progress", "current", "ready", value=2**62), "`loops` is 46116860184273"),
        (put("loops", value=None), "`loops` is None"),
        (put("epoch", value=7), "`epoch` is 7"),
        (put("x", value=1), "'x' in it is not known"),
        (without("lr_schedulers"), "'lr_schedulers' in it is missing"),
        (put("lr_schedulers", value=[{}]), r"`lr_schedulers` is \[{}\]"),
        (put("callbacks", value={"x": {}}), "'x' in callbacks is not known"),
        (put("pytorch-lightning_version", value="x"), "`pytorch-lightning_version` is 'x'"),
        (without(*WEIGHT), "conv1.weight' is missing|conv1.weight' in state_dict is missing"),
        (put("state_dict", "x", value=torch.zeros(1)), "'x' in state_dict is not known"),
        (put(*WEIGHT, value=torch.zeros(2)), r"`task.model.conv1.weight` is \[2\]"),
        (
            put(*WEIGHT, value=torch.zeros(2, 3, 5, 5).half()),
            r"`task.model.conv1.weight` is \[2, 3",
        ),
        (put("optimizer_states", value=[]), r"`optimizer_states` is \[\]"),
        (put("optimizer_states", 0, value=3), "`optimizer_states` is 3"),
        (put("optimizer_states", 0, "param_groups", value=3), "`param_groups` is 3"),
        (put("optimizer_states", 0, "param_groups", value=[{}]), "`param_groups` is None"),
        (put("optimizer_states", 0, "state", value=[]), r"`state` is \[\]"),
        (put("optimizer_states", 0, "state", 99, value={}), "`state` is 99"),
        (put("optimizer_states", 0, "state", 0, value={}), "'momentum_buffer' in state is missing"),
        (put(*MOMENTUM, value=torch.zeros(1)), "`momentum_buffer` is tensor"),
        (put(*MOMENTUM, value=None), "`momentum_buffer` is None"),
        (put("mulfree", "network", value="task.model."), "`network` is 'task.model.'"),
        (put("mulfree", "seconds", value=math.nan), "`seconds` is nan"),
        (put("mulfree", "train_sums", value={}), "`train_sums` is {}"),
        (put("mulfree", "train_sums", value={"x": 1.0}), "`train_sums` is {'x': 1.0}"),
        (put("mulfree", "train_sums", "images", value=0.0), "`images` is 0.0"),
        (put("mulfree", "history", value=[{"epoch": 1}]), "`history` is 1"),
    ],
)
def test_what_this_run_has_not_saved_is_not_gone_on_from(
    change: Callable[[dict[str, Any]], None], message: str, saved: list[bytes], tmp_path: Path
) -> None:
    content = from_bytes(saved[0])
    change(content)
    save_checkpoint(content, tmp_path / "last.ckpt")
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ArtifactError, match=f"(a complete checkpoint|its network).*({message})"):
        train(checkpoint.config, checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("mulfree", "history", 0, "test_accuracy"), "`history` is {'epoch"),
        (put("mulfree", "history", 0, "epoch", value=2), "`epoch` is 2"),
        (put("mulfree", "history", 0, "seconds", value=math.inf), "`seconds` is inf"),
        (
            put("mulfree", "train_sums", value={"loss": 1.0, "images": 1.0}),
            "`train_sums` is {'images': 1.0",
        ),
    ],
)
def test_the_epochs_of_another_run(
    change: Callable[[dict[str, Any]], None], message: str, saved: list[bytes], tmp_path: Path
) -> None:
    content = from_bytes(saved[1])
    change(content)
    save_checkpoint(content, tmp_path / "last.ckpt")
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ArtifactError, match=message):
        train(checkpoint.config, checkpoint)


def test_sums_of_another_task_end_the_run(saved: list[bytes], tmp_path: Path) -> None:
    content = from_bytes(saved[0])
    content["mulfree"]["train_sums"] = {"loss": 1.0, "images": 1.0}
    save_checkpoint(content, tmp_path / "last.ckpt")
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(TrainingError, match=r"`train_sums` must be of loss, .* in the checkpoint"):
        train(checkpoint.config, checkpoint)


def test_what_the_configuration_decides_is_not_taken_from_a_checkpoint(
    saved: list[bytes], tmp_path: Path
) -> None:
    results = []
    for name in ("as it was", "changed"):
        content = from_bytes(saved[0])
        if name == "changed":
            (group,) = content["optimizer_states"][0]["param_groups"]
            group |= {"momentum": 0.0, "weight_decay": 1e9, "fused": "x", "nesterov": True}
            content["optimizer_states"][0]["eta"] = "x"
        (tmp_path / name).mkdir()
        save_checkpoint(content, tmp_path / name / "last.ckpt")
        checkpoint = load_checkpoint(tmp_path / name / "last.ckpt")
        assert train(checkpoint.config, checkpoint).finished
        results.append(load_checkpoint(checkpoint.path).network)
    for name, tensor in results[0].items():
        assert torch.equal(tensor, results[1][name])


def test_whatever_goes_wrong_while_a_loop_takes_its_state_is_one_line(
    saved: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: RunModule, content: dict[str, Any]) -> None:
        raise AttributeError("something unforeseen")

    save_checkpoint(from_bytes(saved[0]), tmp_path / "last.ckpt")
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.setattr(RunModule, "on_load_checkpoint", fail)
    with pytest.raises(ArtifactError, match=r"complete checkpoint \(something unforeseen\)"):
        train(checkpoint.config, checkpoint)
