"""How well a network does on a set of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mulfree.errors import DataError
from mulfree.training.fidelity import Fidelity, agreement, divergence
from mulfree.training.task import Batch, accuracy, correct, precise


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        accuracy: Fraction of the images that were recognised.
        loss: Mean cross entropy.
        images: Number of images.
        per_class: For every class its fraction recognised, nan where it has no image.
        fidelity: How much the network does what a teacher does, where one was given.
    """

    accuracy: float
    loss: float
    images: int
    per_class: tuple[float, ...]
    fidelity: Fidelity | None = None


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], teacher: nn.Module | None = None
) -> Evaluation:
    """Accuracy and loss of `model` in evaluation mode over all `batches`.

    The networks are left in the mode they were in.

    Args:
        model: Maps images `[N, C, H, W]` to logits `[N, num_classes]`.
        batches: Images and labels, on the model's device; images get the dtype of its parameters.
        teacher: A network of the same kind to compare it with.

    Raises:
        DataError: There was no batch.
    """
    networks = [model] if teacher is None else [model, teacher]
    training = [network.training for network in networks]
    for network in networks:
        network.eval()
    loss = 0.0
    sums = torch.zeros(3, dtype=torch.float64)
    right: Tensor | None = None
    total: Tensor | None = None
    try:
        for images, labels in batches:
            logits, *others = (_logits(network, images) for network in networks)
            classes = logits.shape[1]
            loss += float(cross_entropy(logits, labels, reduction="sum"))
            hits = torch.bincount(labels[correct(logits, labels)], minlength=classes)
            count = torch.bincount(labels, minlength=classes)
            right = hits if right is None else right + hits
            total = count if total is None else total + count
            for taught in others:
                sums += len(labels) * _means(logits, taught, labels)
    finally:
        for network, mode in zip(networks, training, strict=True):
            network.train(mode)
    if right is None or total is None:
        raise DataError("evaluate: `batches` must hold at least one batch, got none")
    images_seen = int(total.sum())
    return Evaluation(
        accuracy=float(right.sum()) / images_seen,
        loss=loss / images_seen,
        images=images_seen,
        per_class=tuple((right.double() / total.double()).tolist()),
        fidelity=None if teacher is None else _fidelity(sums / images_seen),
    )


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    dtype = next((p.dtype for p in network.parameters()), None)
    return precise(network(images.to(dtype)))


def _means(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The entries of a `Fidelity` over a batch."""
    entries = (
        accuracy(teacher, labels),
        agreement(student, teacher),
        divergence(student, teacher),
    )
    return torch.stack([entry.double() for entry in entries]).cpu()


def _fidelity(means: Tensor) -> Fidelity:
    teacher_accuracy, agreed, kl = means.tolist()
    return Fidelity(teacher_accuracy=teacher_accuracy, agreement=agreed, kl=kl)
