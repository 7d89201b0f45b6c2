from __future__ import annotations

import copy
import math
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
    TrainConfig,
    build_optimizer,
    load_model,
    read_config,
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
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(beside.teacher.state_dict()[name], tensor), name
    steps(alone, 3, **optimizer)
    steps(beside, 3, **optimizer)
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(beside.teacher.state_dict()[name], tensor), name


def test_the_student_starts_as_it_would_alone_and_learns_from_everything() -> None:
    task = make_task()
    for name, tensor in make_network("adder2d").state_dict().items():
        assert torch.equal(task.model.state_dict()[name].to(tensor.dtype), tensor), name
    steps(task, 1)
    for option in ({"beta": 0.0}, {"alpha": 0.0}):
        other = make_task(**option)
        steps(other, 1)
        weights = (t.model.get_parameter("conv2.weight") for t in (task, other))
        assert not torch.equal(*weights), option


def test_without_weights_it_is_the_student_that_learns_alone() -> None:
    alone = supervised.Method(make_network("adder2d"), supervised.Config()).double().train()
    task = make_task(alpha=0.0, beta=0.0)
    assert task.matching is None
    steps(alone, 2)
    steps(task, 2)
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(task.model.state_dict()[name], tensor, rtol=1e-9, atol=1e-12)


def test_whole_runs_and_what_they_leave(tmp_path: Path) -> None:
    options = {"width": 0.25, "norm_logits": True}
    trainer = {"gradient_clip_norm": 0.1, "ema": 0.5, "accumulate_grad_batches": 2}
    cnn = make_config(
        tmp_path / "cnn", model={"operator": "conv2d", "options": options}, trainer=trainer
    )
    adder = make_config(tmp_path / "adder", model={"options": options}, trainer=trainer)
    pair = make_config(
        tmp_path / "pair", model={"options": options}, trainer=trainer, method={"name": "pkkd"}
    )
    for config in (cnn, adder, pair):
        train(config)
    # The moving average is the student's alone.
    plain = make_config(
        tmp_path / "plain",
        model={"operator": "conv2d", "options": options},
        trainer={**trainer, "ema": None},
    )
    train(plain)
    teacher = load_model(tmp_path / "pair" / "teacher.safetensors").state_dict()
    for name, tensor in load_model(tmp_path / "plain").state_dict().items():
        assert torch.equal(teacher[name], tensor), name
    mine, other = (load_file(tmp_path / name / "model.safetensors") for name in ("pair", "adder"))
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in other.items()}
    assert models.config_of(load_model(tmp_path / "pair")) == models.config_of(
        load_model(tmp_path / "adder")
    )


def test_validation_leaves_the_fidelity_on_test_images(tmp_path: Path) -> None:
    config = make_config(tmp_path, data={"validation": 0.25}, method={"name": "pkkd"})
    result = train(config)
    assert {"validation_agreement", "validation_kl"} <= result.history[-1].keys()
    metrics = result.metrics
    assert 0 <= metrics["test_agreement"] <= 1
    assert metrics["test_kl"] > 0
    assert {"test_accuracy", "test_loss", "test_teacher_accuracy"} <= metrics.keys()


@pytest.mark.parametrize("training", [True, False])
def test_a_step_is_one_graph(training: bool) -> None:
    torch._dynamo.reset()
    images, labels = batches(1)[0]
    task, other = (make_task(layers=("*",)).train(training) for _ in range(2))
    compiled = torch.compile(task, fullgraph=True, dynamic=False, backend="eager")
    for _ in range(2):
        assert_same(compiled((images, labels)), other((images, labels)))
    assert_same(dict(task.state_dict()), dict(other.state_dict()))
    torch._dynamo.reset()


def test_a_copy_of_the_task_reads_its_own_networks() -> None:
    task = make_task()
    other = copy.deepcopy(task)
    steps(other, 1)
    (batch,) = batches(1)
    fresh = make_task()
    assert_same(task(batch), fresh(batch))


def test_a_fixed_teacher(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    models.save_weights(make_network("conv2d"), path)
    task = pkkd.Method(make_network("adder2d"), pkkd.Config(teacher=str(path))).train()
    before = {name: tensor.clone() for name, tensor in task.teacher.state_dict().items()}
    images, labels = batches(1)[0]
    report = task((images.float(), labels))
    assert "teacher_loss" not in report
    assert "mid_loss" in report
    report["loss"].backward()
    assert not any(module.training for module in task.teacher.modules())
    assert all(p.grad is None for p in task.teacher.parameters())
    for name, tensor in task.teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_fixed_teacher_of_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    models.save_weights(models.create_model("resnet20", **SIZE), path)
    with pytest.raises(ConfigError, match=r"pkkd: `teacher` must have a layer conv2 of"):
        pkkd.Method(make_network("adder2d"), pkkd.Config(teacher=str(path)))


def test_options_of_the_operator_are_the_students_alone() -> None:
    student = models.create_model("lenet5_bn", operator="adder2d", gradient="sign")
    teacher = models.config_of(distillation.fresh_teacher(student)).arguments
    assert (teacher["operator"], teacher["gradient"]) == ("conv2d", None)
    assert {k: v for k, v in teacher.items() if k not in ("operator", "gradient")} == {
        k: v
        for k, v in models.config_of(student).arguments.items()
        if k not in ("operator", "gradient")
    }


def test_options_from_the_command_line_and_from_mappings() -> None:
    words = ["--method.name=pkkd", "--method.layers=[conv2,conv4]", "--method.sigma=0.5"]
    config = read_config(words)
    assert config.method == pkkd.Config(layers=("conv2", "conv4"), sigma=0.5)
    assert TrainConfig.from_dict(config.to_dict()) == config
    method = {"name": "pkkd", "layers": ["conv2", "conv4"], "sigma": 0.5}
    assert TrainConfig.from_dict({"method": method}) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, r"pkkd: `beta` must be at least 0, got -1.0"),
        ({"alpha": -1.0}, r"pkkd: `alpha` must be at least 0, got -1.0"),
        ({"sigma": 0.0}, r"pkkd: `sigma` must be positive, got 0.0"),
        ({"sigma": -2.0}, r"pkkd: `sigma` must be positive, got -2.0"),
        ({"sigma": math.nan}, r"pkkd: `sigma` must be finite, got nan"),
        ({"sigma": "match"}, r"pkkd: `sigma` must be one of .*; did you mean 'matched'"),
        (
            {"projection": "teacher"},
            r"pkkd: `projection` must be one of both, none, student, got",
        ),
        ({"layers": ()}, r"pkkd: `layers` must name at least one layer, got none"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pkkd.Config(**options)
