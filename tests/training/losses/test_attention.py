"""Attention maps and their loss."""

from __future__ import annotations

import torch

from mulfree.training.losses.attention import attention_loss, attention_map


def test_a_map_by_hand() -> None:
    # Channel sums 0, 2, 4, 6: mean 3, unbiased variance (9 + 1 + 1 + 9) / 3 = 20 / 3.
    features = torch.tensor([[[[0.0, 1.0], [3.0, 2.0]], [[0.0, 1.0], [1.0, 4.0]]]]).double()
    expected = torch.tensor([[[-3.0, -1.0], [1.0, 3.0]]]).double() / (20 / 3 + 1e-6) ** 0.5
    torch.testing.assert_close(attention_map(features), expected, rtol=1e-12, atol=0)


def test_a_flat_map_is_zero_with_a_finite_gradient() -> None:
    for shape in ((2, 3, 1, 1), (2, 3, 2, 2)):
        features = torch.ones(shape, dtype=torch.float64, requires_grad=True)
        maps = attention_map(features)
        assert not maps.any()
        maps.sum().backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()


def test_the_loss_and_its_gradient() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    loss = attention_loss(features, reference)
    a, b = (attention_map(x.detach()) for x in (features, reference))
    torch.testing.assert_close(loss, ((a - b) ** 2).sum() / 12)
    loss.backward()
    assert reference.grad is None
    # Chain rule: d standardised / d map, the same for every channel.
    maps = features.detach().sum(1).flatten(1)
    centred = maps - maps.mean(1, keepdim=True)
    scale = (centred.square().sum(1, keepdim=True) / 5 + 1e-6).sqrt()
    outer = (2 * (a - b) / 12).flatten(1)
    inner = outer / scale - centred * (outer * centred).sum(1, keepdim=True) / (5 * scale**3)
    inner = inner - inner.mean(1, keepdim=True)
    expected = inner.view(2, 1, 3, 2).expand(2, 3, 3, 2)
    torch.testing.assert_close(features.grad, expected, rtol=1e-10, atol=1e-12)
