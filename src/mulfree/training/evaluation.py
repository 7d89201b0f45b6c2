"""How well a network does on a set of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mulfree.errors import DataError
from mulfree.training.task import Batch, correct, precise


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        accuracy: Fraction of the images that were recognised.
        loss: Mean cross entropy.
        images: Number of images.
        per_class: For every class its fraction recognised, nan where it has no image.
    """

    accuracy: float
    loss: float
    images: int
    per_class: tuple[float, ...]


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
    """Accuracy and loss of `model` in evaluation mode over all `batches`.

    The model is left in the mode it was in.

    Args:
        model: Maps images `[N, C, H, W]` to logits `[N, num_classes]`.
        batches: Images and labels, on the model's device; images get the dtype of its parameters.

    Raises:
        DataError: There was no batch.
    """
    training = model.training
    model.eval()
    dtype = next((p.dtype for p in model.parameters()), None)
    loss = 0.0
    right: Tensor | None = None
    total: Tensor | None = None
    try:
        for images, labels in batches:
            logits = precise(model(images.to(dtype)))
            classes = logits.shape[1]
            loss += float(cross_entropy(logits, labels, reduction="sum"))
            hits = torch.bincount(labels[correct(logits, labels)], minlength=classes)
            count = torch.bincount(labels, minlength=classes)
            right = hits if right is None else right + hits
            total = count if total is None else total + count
    finally:
        model.train(training)
    if right is None or total is None:
        raise DataError("evaluate: `batches` must hold at least one batch, got none")
    images_seen = int(total.sum())
    return Evaluation(
        accuracy=float(right.sum()) / images_seen,
        loss=loss / images_seen,
        images=images_seen,
        per_class=tuple((right.double() / total.double()).tolist()),
    )
