from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mulfree.errors import DataError
from mulfree.training import evaluate


def test_accuracy_loss_and_classes_over_uneven_batches() -> None:
    # Three classes; the last has no image. The "network" gives its images back.
    first = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
    batches = [
        (first, torch.tensor([0, 0, 1])),
        (torch.tensor([[math.nan, 0.0, 0.0]]), torch.tensor([0])),
    ]
    result = evaluate(nn.Identity(), batches)
    assert result.images == 4
    assert result.accuracy == 0.5
    assert result.per_class[:2] == pytest.approx((1 / 3, 1.0))
    assert math.isnan(result.per_class[2])
    assert math.isnan(result.loss)
    right = -math.log(math.exp(2) / (math.exp(2) + 2))
    wrong = -math.log(1 / (math.exp(2) + 2))
    mean = (2 * right + wrong) / 3
    assert evaluate(nn.Identity(), batches[:1]).loss == pytest.approx(mean, rel=1e-6)


def test_the_model_is_in_evaluation_mode_and_then_as_before() -> None:
    model = nn.BatchNorm1d(2)
    batch = (torch.randn(3, 2), torch.tensor([0, 1, 1]))
    evaluate(model, [batch])
    assert model.training
    assert model.num_batches_tracked == 0
    evaluate(model.eval(), [batch])
    assert not model.training


def test_nothing_to_evaluate() -> None:
    with pytest.raises(DataError, match="evaluate: `batches` must hold at least one batch, got no"):
        evaluate(nn.Identity(), [])
