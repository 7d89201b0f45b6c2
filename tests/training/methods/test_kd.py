from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import assert_same, make_config

from mulfree import models
from mulfree.errors import ArtifactError, ConfigError
from mulfree.tasks import get_task
from mulfree.training import TrainConfig, load_model, train
from mulfree.training.methods import get_method, kd

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
# The teacher's probabilities are 1/5 4/5 and 9/10 1/10, the student's 3/4 1/4 and 1/2 1/2.
HARD = (math.log(4 / 3) + math.log(2)) / 2
SOFT = (0.2 * math.log(4 / 3) + 0.8 * math.log(4) + math.log(2)) / 2
ROOT = math.sqrt(3.0)


@pytest.mark.parametrize(
    ("options", "hard", "soft"),
    [
        ({}, HARD, SOFT),
        # Logits by half: the teacher's probabilities are 1/3 2/3 and 3/4 1/4.
        ({"temperature": 2.0}, HARD, 2 * (math.log(2 + 2 * ROOT) - math.log(ROOT) / 3)),
        ({"loss_weighting": "convex"}, 0.75 * HARD, SOFT),
    ],
)
def test_the_losses_by_hand(options: dict[str, Any], hard: float, soft: float) -> None:
    losses = kd.Config(alpha=0.25, **options).losses(get_task(), LOGITS, TAUGHT, LABELS)
    assert [loss.item() for loss in losses] == pytest.approx([hard, 0.25 * soft], rel=1e-12)


@pytest.mark.parametrize("name", ["kd", "pkkd"])
def test_a_trained_teacher(name: str, teacher: str) -> None:
    method = TrainConfig.from_dict({"method": {"name": name, "teacher": teacher}}).method
    made = get_method(name)(make_student(), method).train()
    (companion,) = made.companions().values()
    batch = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    before = {key: tensor.clone() for key, tensor in companion.state_dict().items()}
    report = made(batch)
    report["loss"].backward()
    assert "teacher_loss" not in report
    assert made.model.training
    assert not any(module.training for module in companion.modules())
    assert all(p.grad is None and not p.requires_grad for p in companion.parameters())
    assert_same(companion.state_dict(), before)
    expected = load_model(teacher)(batch[0])
    assert report["teacher_accuracy"] == (expected.argmax(1) == batch[1]).float().mean()
    tested = made.eval().test(made.model, batch)
    assert tested["loss"] == torch.nn.functional.cross_entropy(made.model(batch[0]), batch[1])
    assert set(tested) == {"loss", "accuracy", "teacher_accuracy", "agreement", "kl"}
    itself = made.test(companion, batch)
    assert (itself["agreement"].item(), itself["kl"].item()) == (1.0, 0.0)
    assert itself["accuracy"] == itself["teacher_accuracy"]


def test_a_run(tmp_path: Path) -> None:
    options = {"width": 0.25}
    train(make_config(tmp_path / "cnn", model={"operator": "conv2d", "options": options}))
    method = {"name": "kd", "teacher": str(tmp_path / "cnn"), "temperature": 4.0}
    result = train(make_config(tmp_path / "run", method=method))
    assert {"train_agreement", "train_kl", "test_agreement", "test_kl"} <= result.history[0].keys()
    taught = load_model(tmp_path / "run" / "teacher.safetensors").state_dict()
    assert_same(taught, load_model(tmp_path / "cnn").state_dict())
    assert result.metrics["test_agreement"] == result.history[-1]["test_agreement"]


def test_teachers_that_do_not_fit(teacher: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kd: `teacher` must be a trained network, got None"):
        kd.Method(make_student(), kd.Config())
    with pytest.raises(ArtifactError, match=r"must be an existing file"):
        kd.Method(make_student(), kd.Config(teacher=str(tmp_path / "none.ckpt")))
    student = models.create_model("lenet5_bn", num_classes=4, in_channels=1)
    message = r"kd: `teacher` must have num_classes 4 as the network has it, got 3 in .*teach"
    with pytest.raises(ConfigError, match=message):
        kd.Method(student, kd.Config(teacher=teacher))
