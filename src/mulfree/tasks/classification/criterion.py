"""Losses of classification: cross entropy with labels, or with another network's probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mulfree.tasks.classification.targets import Targets


def at_least_float32(logits: Tensor) -> Tensor:
    """Convert logits in half precision to float32; others stay as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def loss(logits: Tensor, labels: Targets, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy between logits and labels.

    Args:
        logits: `[N, num_classes]`.
        labels: `[N]`.
        label_smoothing: Share of the target spread evenly over all classes.
    """
    return cross_entropy(logits, labels, label_smoothing=label_smoothing)


def soft_loss(logits: Tensor, reference: Tensor, temperature: float) -> Tensor:
    """Mean cross entropy between the probabilities of two networks.

    Args:
        logits: `[N, num_classes]`.
        reference: Logits of the other network, `[N, num_classes]`; they get no gradient.
        temperature: Divides the logits of both.
    """
    probabilities = (reference.detach() / temperature).softmax(dim=1)
    return cross_entropy(logits / temperature, probabilities)
