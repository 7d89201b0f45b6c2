from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.training import Batch, MethodConfig, TrainingTask, methods
from mulfree.training.methods import get_method, supervised
from mulfree.training.task import accuracy


def logits_of(rows: list[list[float]]) -> tuple[nn.Module, Tensor]:
    """A network that gives `rows`, and its images."""
    return nn.Identity(), torch.tensor(rows)


def test_accuracy() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [math.nan, 5.0]])
    assert accuracy(logits, torch.tensor([1, 1, 1, 1])).item() == 0.5


def test_supervised_loss_and_accuracy() -> None:
    model, images = logits_of([[0.0, 0.0], [math.log(3.0), 0.0]])
    report = supervised.Task(model, supervised.Config())((images, torch.tensor([1, 0])))
    # Probabilities 1/2 and 3/4 of the labels.
    assert report["loss"].item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert report["accuracy"].item() == 0.5


def test_label_smoothing_is_for_training_only() -> None:
    model, images = logits_of([[math.log(3.0), 0.0]])
    task = supervised.Task(model, supervised.Config(label_smoothing=0.2))
    batch = (images, torch.tensor([0]))
    # Target 0.9 and 0.1.
    expected = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert task(batch)["loss"].item() == pytest.approx(expected)
    assert task.test(model, batch)["loss"].item() == pytest.approx(math.log(4 / 3))


def test_the_loss_is_computed_in_float32() -> None:
    model, images = logits_of([[1000.0, 0.0]])
    batch = (images.bfloat16(), torch.tensor([1]))
    report = supervised.Task(model, supervised.Config())(batch)
    assert report["loss"].dtype == torch.float32
    assert report["loss"].item() == 1000.0


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_bad_label_smoothing(value: float) -> None:
    with pytest.raises(ConfigError, match=r"supervised: `label_smoothing` must (lie in|be finite)"):
        supervised.Config(label_smoothing=value)


def test_the_listed_methods_have_their_names(tmp_path: Path) -> None:
    model = models.create_model("lenet5_bn", in_channels=1)
    models.save_weights(model, tmp_path / "model.safetensors")
    for name in methods.METHODS:
        method = get_method(name)
        config = method.Config()  # type: ignore[call-arg]
        assert config.name == name
        if name == "kd":
            # It has no default.
            config = replace(config, teacher=str(tmp_path))  # type: ignore[call-arg]
        assert isinstance(method.Task(model, config), TrainingTask)


def test_an_unknown_method() -> None:
    with pytest.raises(ConfigError, match=r"`name` must be one of .*; did you mean 'supervised'?"):
        get_method("supervise")


@dataclass(frozen=True, kw_only=True)
class ToyConfig(MethodConfig):
    name: str = "toy"
    factor: float = 2.0


class ToyTask(TrainingTask):
    def __init__(self, model: nn.Module, config: ToyConfig) -> None:
        super().__init__(model)
        self.factor = config.factor

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.factor * self.model(batch[0]).square().mean()}
