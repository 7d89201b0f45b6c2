"""Gumbel-softmax: frequencies of the samples, and gradients by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mulfree.training.losses.gumbel import gumbel_noise, straight_through

# 0.1 % point of chi-square with three degrees of freedom: a right sampler fails at one seed of a
# thousand.
LIMIT = 16.27


def test_frequencies_match_the_probabilities() -> None:
    torch.manual_seed(0)
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    log_p = p.log().expand(20_000, 4)
    h = straight_through(log_p, gumbel_noise(log_p), tau=0.7)
    assert torch.equal(h.unique(), torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert (h.sum(1) == 1).all()
    wrong = torch.tensor([0.48, 0.32, 0.15, 0.05], dtype=torch.float64)
    assert chi_square(h.sum(0), 20_000 * p) < LIMIT < chi_square(h.sum(0), 20_000 * wrong)


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def test_noise_has_mean_and_variance_of_the_gumbel_distribution() -> None:
    torch.manual_seed(1)
    noise = gumbel_noise(torch.zeros(100_000, 2, dtype=torch.float64))
    assert abs(float(noise.mean()) - 0.5772156649) < 0.02
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.03


def test_noise_follows_the_seed_of_the_step() -> None:
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(gumbel_noise(torch.zeros(5, 3)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_gradient_is_the_gradient_of_the_softmax() -> None:
    tau = 0.5
    log_p = torch.tensor([[-1.0, -0.5, -2.0]], dtype=torch.float64, requires_grad=True)
    noise = torch.tensor([[0.3, -0.4, 1.0]], dtype=torch.float64)
    weights = torch.tensor([[1.0, -2.0, 5.0]], dtype=torch.float64)
    h = straight_through(log_p, noise, tau)
    assert h.tolist() == [[1.0, 0.0, 0.0]]
    (h * weights).sum().backward()
    powers = [math.exp(score / tau) for score in (-0.7, -0.9, -1.0)]
    soft = [power / sum(powers) for power in powers]
    mean = sum(s * w for s, w in zip(soft, (1.0, -2.0, 5.0), strict=True))
    expected = [s * (w - mean) / tau for s, w in zip(soft, (1.0, -2.0, 5.0), strict=True)]
    assert log_p.grad is not None
    torch.testing.assert_close(log_p.grad, torch.tensor([expected], dtype=torch.float64))
