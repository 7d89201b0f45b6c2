from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.runs import assert_same, make_config
from torch import nn
from torch.nn.functional import cross_entropy

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.tasks import get_task
from mulfree.training import (
    Batch,
    OptimizerConfig,
    build_optimizer,
    load_model,
    train,
)
from mulfree.training.losses import distillation
from mulfree.training.methods import kd, pkkd, supervised

SIZE: dict[str, Any] = {"num_classes": 3, "in_channels": 1, "width": 0.25, "norm_logits": True}


def make_network(operator: str) -> nn.Module:
    torch.manual_seed(0)
    return models.create_model("lenet5_bn", operator=operator, **SIZE)


def make_task(**options: Any) -> pkkd.Method:
    return pkkd.Method(make_network("adder2d"), pkkd.Config(**options)).double().train()


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(6, 1, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (6,), generator=generator),
        )
        for _ in range(count)
    ]


def steps(task: nn.Module, count: int, **options: Any) -> None:
    optimizer = build_optimizer(task, OptimizerConfig(**options))
    for batch in batches(count):
        optimizer.zero_grad()
        task(batch)["loss"].backward()
        optimizer.step()


def test_the_loss_is_the_sum_of_its_parts() -> None:
    task = make_task(alpha=0.5, beta=2.0, temperature=3.0, layers=("conv2", "conv4"))
    (batch,) = batches(1)
    assert task.matching is not None
    report = task(batch)
    task = make_task(alpha=0.5, beta=2.0, temperature=3.0, layers=("conv2", "conv4"))
    assert task.matching is not None
    task.matching.start()
    teacher, student = task.teacher(batch[0]), task.model(batch[0])
    mid = task.matching()
    hard, soft = kd.Config(alpha=0.5, temperature=3.0).losses(
        get_task(), student, teacher, batch[1]
    )
    own = cross_entropy(teacher, batch[1])
    assert report["hard_loss"].item() == pytest.approx(hard.item(), rel=1e-12)
    assert report["soft_loss"].item() == pytest.approx(soft.item(), rel=1e-12)
    assert report["mid_loss"].item() == pytest.approx(2 * mid.item(), rel=1e-12)
    assert report["teacher_loss"].item() == pytest.approx(own.item(), rel=1e-12)
    total = hard + soft + 2 * mid + own
    assert report["loss"].item() == pytest.approx(total.item(), rel=1e-12)


@pytest.mark.parametrize(
    "optimizer", [{}, {"name": "adamw", "lr": 0.01}, {"decay": "no_bias_norm"}]
)
def test_the_teacher_is_the_network_that_learns_alone(optimizer: dict[str, Any]) -> None:
    alone = supervised.Method(make_network("conv2d"), supervised.Config()).double().train()
    beside = make_task(layers=("*",), beta=3.0)
    assert_same(beside.teacher.state_dict(), alone.model.state_dict())
    steps(alone, 3, **optimizer)
    steps(beside, 3, **optimizer)
    assert_same(beside.teacher.state_dict(), alone.model.state_dict())


def test_without_weights_it_is_the_student_that_learns_alone() -> None:
    alone = supervised.Method(make_network("adder2d"), supervised.Config()).double().train()
    task = make_task(alpha=0.0, beta=0.0)
    assert task.matching is None
    steps(alone, 2)
    steps(task, 2)
    assert_same(alone.model.state_dict(), task.model.state_dict(), rtol=1e-9, atol=1e-12)


def test_whole_runs_and_what_they_leave(tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "data": {"validation": 0.25},
        "trainer": {"gradient_clip_norm": 0.1, "ema": 0.5, "accumulate_grad_batches": 2},
    }
    options = {"width": 0.25, "norm_logits": True}
    pair: dict[str, Any] = {"model": {"options": options}, "method": {"name": "pkkd"}}
    result = train(make_config(tmp_path / "pair", **sections, **pair))
    # The moving average is the student's alone.
    sections["trainer"]["ema"] = None
    model = {"operator": "conv2d", "options": options}
    train(make_config(tmp_path / "plain", **sections, model=model))
    teacher = load_model(tmp_path / "pair" / "teacher.safetensors").state_dict()
    assert_same(teacher, load_model(tmp_path / "plain").state_dict())
    student = make_network("adder2d").state_dict()
    assert load_file(tmp_path / "pair" / "model.safetensors").keys() == student.keys()
    assert {"validation_agreement", "validation_kl"} <= result.history[-1].keys()
    metrics = result.metrics
    assert 0 <= metrics["test_agreement"] <= 1
    assert metrics["test_kl"] > 0
    assert {"test_accuracy", "test_loss", "test_teacher_accuracy"} <= metrics.keys()


def test_a_copy_of_the_task_reads_its_own_networks() -> None:
    task = make_task()
    other = copy.deepcopy(task)
    steps(other, 1)
    (batch,) = batches(1)
    fresh = make_task()
    assert_same(task(batch), fresh(batch))


def test_a_fixed_teacher_of_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    models.save_weights(models.create_model("resnet20", **SIZE), path)
    with pytest.raises(ConfigError, match=r"pkkd: `teacher` must have a layer conv2 of"):
        pkkd.Method(make_network("adder2d"), pkkd.Config(teacher=str(path)))


def test_options_of_the_operator_are_the_students_alone() -> None:
    student = models.create_model("lenet5_bn", operator="adder2d", gradient="sign")
    expected = {**models.config_of(student).arguments, "operator": "conv2d", "gradient": None}
    assert models.config_of(distillation.fresh_teacher(student)).arguments == expected
