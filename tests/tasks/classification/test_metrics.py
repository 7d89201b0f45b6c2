from __future__ import annotations

import math

import pytest
import torch

from mulfree.errors import TrainingError
from mulfree.tasks.classification.metrics import Means, accuracy


def test_accuracy() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [math.nan, 5.0]])
    assert accuracy(logits, torch.tensor([1, 1, 1, 1])).item() == 0.5


def test_means_over_uneven_batches() -> None:
    means = Means()
    assert means.compute() == {}
    means.update({"loss": torch.tensor(1.0), "accuracy": torch.tensor(0.5)}, 2)
    means.update({"loss": torch.tensor(4.0), "accuracy": torch.tensor(1.0)}, 1)
    assert means.compute() == pytest.approx({"loss": 2.0, "accuracy": 2 / 3})


def test_means_of_other_metrics() -> None:
    means = Means({"loss": torch.zeros(()), "images": torch.zeros(())})
    with pytest.raises(TrainingError, match=r"`train_sums` must be of loss, kl .*, got \['loss'"):
        means.update({"loss": torch.tensor(1.0), "kl": torch.tensor(1.0)}, 2)
