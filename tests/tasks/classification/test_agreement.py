from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mulfree.tasks.classification.agreement import agreement, divergence
from mulfree.training import evaluate

# Probabilities 1/2 1/2 and 3/4 1/4.
EVEN, TILTED = [0.0, 0.0], [math.log(3.0), 0.0]


def test_agreement() -> None:
    student = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [3.0, 0.0, 1.0]])
    reference = torch.tensor([[0.0, 9.0, 1.0], [5.0, 2.0, 0.0], [0.1, 0.0, 0.0]])
    assert agreement(student, reference).item() == pytest.approx(2 / 3)


def test_divergence_is_from_the_reference() -> None:
    student = torch.tensor([EVEN, TILTED], dtype=torch.float64)
    reference = torch.tensor([TILTED, EVEN], dtype=torch.float64)
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    second = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert divergence(student, reference).item() == pytest.approx((first + second) / 2, rel=1e-12)
    assert divergence(student, student).item() == 0.0


def test_divergence_of_certain_networks_is_finite() -> None:
    student, reference = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert divergence(student, reference).item() == 1e4


class Reversed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(1)


def test_evaluate_with_a_reference_over_uneven_batches() -> None:
    batches = [
        (torch.tensor([TILTED, TILTED]), torch.tensor([1, 1])),
        (torch.tensor([EVEN]), torch.tensor([0])),
    ]
    result = evaluate(nn.Identity(), batches, Reversed())
    # KL(1/4 3/4 || 3/4 1/4) for the first two images; the last is the same to both.
    kl = 0.25 * math.log(1 / 3) + 0.75 * math.log(3)
    assert result.accuracy == pytest.approx(1 / 3)
    assert result.fidelity is not None
    assert result.fidelity.reference_accuracy == pytest.approx(1.0)
    assert result.fidelity.agreement == pytest.approx(1 / 3)
    assert result.fidelity.kl == pytest.approx(2 * kl / 3, rel=1e-6)
    assert evaluate(nn.Identity(), batches).fidelity is None


def test_the_reference_is_in_evaluation_mode_and_then_as_before() -> None:
    reference = nn.BatchNorm1d(2)
    evaluate(nn.Identity(), [(torch.randn(3, 2), torch.tensor([0, 1, 1]))], reference)
    assert reference.training
    assert reference.num_batches_tracked == 0
