from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import make_config

from mulfree import models
from mulfree.errors import ArtifactError, ConfigError
from mulfree.tasks import get_task
from mulfree.training import load_model, train
from mulfree.training.methods import kd

SIZE: dict[str, Any] = {"num_classes": 3, "in_channels": 1, "width": 0.25}


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    """A file with a network to learn from."""
    torch.manual_seed(1)
    path = tmp_path / "teacher.safetensors"
    models.save_weights(models.create_model("lenet5_bn", **SIZE), path)
    return str(path)


def make_student() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.create_model("lenet5_bn", operator="adder2d", **SIZE)


LOGITS = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], dtype=torch.float64)
TAUGHT = torch.tensor([[0.0, math.log(4.0)], [math.log(9.0), 0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])
HARD = (math.log(4 / 3) + math.log(2)) / 2


def test_the_losses_by_hand() -> None:
    hard, soft = kd.Config(alpha=2.0).losses(get_task(), LOGITS, TAUGHT, LABELS)
    # The teacher's probabilities are 1/5 4/5 and 9/10 1/10, the student's 3/4 1/4 and 1/2 1/2.
    first = 0.2 * math.log(4 / 3) + 0.8 * math.log(4)
    assert hard.item() == pytest.approx(HARD, rel=1e-12)
    assert soft.item() == pytest.approx(2.0 * (first + math.log(2)) / 2, rel=1e-12)


def test_the_temperature_by_hand() -> None:
    _, soft = kd.Config(alpha=0.5, temperature=2.0).losses(get_task(), LOGITS, TAUGHT, LABELS)
    # Logits by half: the teacher's probabilities are 1/3 2/3 and 3/4 1/4.
    root = math.sqrt(3.0)
    first = math.log(1 + root) - math.log(root) / 3
    assert soft.item() == pytest.approx(0.5 * 4 * (first + math.log(2)) / 2, rel=1e-12)


def test_the_blend_by_hand() -> None:
    added = kd.Config(alpha=0.25).losses(get_task(), LOGITS, TAUGHT, LABELS)
    mixed = kd.Config(alpha=0.25, loss_weighting="convex").losses(
        get_task(), LOGITS, TAUGHT, LABELS
    )
    assert mixed[0].item() == pytest.approx(0.75 * HARD, rel=1e-12)
    assert mixed[1].item() == added[1].item()


def test_the_teacher_gets_no_gradient_and_stays_in_evaluation_mode(teacher: str) -> None:
    task = kd.Method(make_student(), kd.Config(teacher=teacher)).train()
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    before = {name: tensor.clone() for name, tensor in task.teacher.state_dict().items()}
    report = task((images, labels))
    report["loss"].backward()
    assert task.model.training
    assert not any(module.training for module in task.teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in task.teacher.parameters())
    assert all(p.grad is not None for p in task.model.parameters())
    for name, tensor in task.teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    expected = load_model(teacher)(images)
    assert report["teacher_accuracy"] == (expected.argmax(1) == labels).float().mean()


def test_what_is_reported_of_test_images(teacher: str) -> None:
    task = kd.Method(make_student(), kd.Config(teacher=teacher)).eval()
    batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    report = task.test(task.model, batch)
    assert report["loss"] == torch.nn.functional.cross_entropy(task.model(batch[0]), batch[1])
    assert set(report) == {"loss", "accuracy", "teacher_accuracy", "agreement", "kl"}
    itself = task.test(task.teacher, batch)
    assert itself["agreement"].item() == 1.0
    assert itself["kl"].item() == 0.0
    assert itself["accuracy"] == itself["teacher_accuracy"]


def test_a_run(tmp_path: Path) -> None:
    options = {"width": 0.25}
    train(make_config(tmp_path / "cnn", model={"operator": "conv2d", "options": options}))
    method = {"name": "kd", "teacher": str(tmp_path / "cnn"), "temperature": 4.0}
    result = train(make_config(tmp_path / "run", method=method))
    assert {"train_agreement", "train_kl", "test_agreement", "test_kl"} <= result.history[0].keys()
    taught = load_model(tmp_path / "run" / "teacher.safetensors").state_dict()
    for name, tensor in load_model(tmp_path / "cnn").state_dict().items():
        assert torch.equal(tensor, taught[name]), name
    assert result.metrics["test_agreement"] == result.history[-1]["test_agreement"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.1}, r"kd: `alpha` must be at least 0, got -0.1"),
        ({"alpha": math.inf}, r"kd: `alpha` must be finite, got inf"),
        (
            {"alpha": 1.5, "loss_weighting": "convex"},
            r"kd: `alpha` must be at most 1 with loss_weighting convex, got 1.5",
        ),
        ({"temperature": 0.0}, r"kd: `temperature` must be positive, got 0.0"),
        (
            {"loss_weighting": "half"},
            r"kd: `loss_weighting` must be one of additive, convex, got 'half'",
        ),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kd.Config(**options)  # type: ignore[arg-type]


def test_no_teacher() -> None:
    with pytest.raises(ConfigError, match=r"kd: `teacher` must be a trained network, got None"):
        kd.Method(make_student(), kd.Config())


def test_a_teacher_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"must be an existing file"):
        kd.Method(make_student(), kd.Config(teacher=str(tmp_path / "none.ckpt")))


def test_a_teacher_of_other_classes(teacher: str) -> None:
    student = models.create_model("lenet5_bn", num_classes=4, in_channels=1)
    message = r"kd: `teacher` must have num_classes 4 as the network has it, got 3 in .*teach"
    with pytest.raises(ConfigError, match=message):
        kd.Method(student, kd.Config(teacher=teacher))
