from __future__ import annotations

from torch import Tensor


def at_least_float32(outputs: Tensor) -> Tensor:
    return outputs.float()


def loss(outputs: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    return (outputs.mean(1) - targets).square().mean()


def soft_loss(outputs: Tensor, reference: Tensor, temperature: float) -> Tensor:
    return ((outputs - reference.detach()) / temperature).square().mean()
