from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mulfree.training.methods import supervised


def logits_of(rows: list[list[float]]) -> tuple[nn.Module, Tensor]:
    """A network that gives `rows`, and its images."""
    return nn.Identity(), torch.tensor(rows)


def test_supervised_loss_and_accuracy() -> None:
    model, images = logits_of([[0.0, 0.0], [math.log(3.0), 0.0]])
    report = supervised.Method(model, supervised.Config())((images, torch.tensor([1, 0])))
    # Probabilities 1/2 and 3/4 of the labels.
    assert report["loss"].item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert report["accuracy"].item() == 0.5


def test_label_smoothing_is_for_training_only() -> None:
    model, images = logits_of([[math.log(3.0), 0.0]])
    task = supervised.Method(model, supervised.Config(label_smoothing=0.2))
    batch = (images, torch.tensor([0]))
    # Target 0.9 and 0.1.
    expected = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert task(batch)["loss"].item() == pytest.approx(expected)
    assert task.test(model, batch)["loss"].item() == pytest.approx(math.log(4 / 3))


def test_the_loss_is_computed_in_float32() -> None:
    model, images = logits_of([[1000.0, 0.0]])
    batch = (images.bfloat16(), torch.tensor([1]))
    report = supervised.Method(model, supervised.Config())(batch)
    assert report["loss"].dtype == torch.float32
    assert report["loss"].item() == 1000.0
