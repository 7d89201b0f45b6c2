"""Metrics of classification: accuracy, and agreement with a reference network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mulfree.tasks.classification.agreement import Fidelity, agreement, divergence
from mulfree.tasks.classification.targets import Targets
from mulfree.tasks.means import Means as Means

BEST = "accuracy"
HIGHER_IS_BETTER = True


def correct_mask(logits: Tensor, labels: Targets) -> Tensor:
    """Images whose largest logit is at the label, `[N]`; rows with NaN are wrong.

    Args:
        logits: `[N, num_classes]`.
        labels: `[N]`.
    """
    return (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)


def accuracy(logits: Tensor, labels: Targets) -> Tensor:
    """Fraction of the rows of `logits` in `correct_mask`."""
    return correct_mask(logits, labels).to(torch.float32).mean()


def measure(logits: Tensor, labels: Targets) -> dict[str, Tensor]:
    """Accuracy over a batch."""
    return {"accuracy": accuracy(logits.detach(), labels)}


def compare(logits: Tensor, reference: Tensor, labels: Targets, name: str) -> dict[str, Tensor]:
    """Entries of a `Fidelity` over a batch.

    Args:
        logits: `[N, num_classes]`.
        reference: Logits of the reference network, `[N, num_classes]`.
        labels: `[N]`.
        name: Name of the reference network.
    """
    logits, reference = logits.detach(), reference.detach()
    return {
        f"{name}_accuracy": accuracy(reference, labels),
        "agreement": agreement(logits, reference),
        "kl": divergence(logits, reference),
    }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of `mulfree.training.evaluate`.

    Attributes:
        accuracy: Fraction of the images that were recognised.
        loss: Mean cross entropy.
        images: Number of images.
        per_class: Accuracy of every class, NaN where it has no image.
        fidelity: Agreement with the reference network, where there was one.
    """

    accuracy: float
    loss: float
    images: int
    per_class: tuple[float, ...]
    fidelity: Fidelity | None = None

    def values(self, reference: str) -> dict[str, float]:
        """Accuracy, loss and the comparison with the network called `reference`, by name."""
        values = {"accuracy": self.accuracy, "loss": self.loss}
        if (found := self.fidelity) is not None:
            values |= {f"{reference}_accuracy": found.reference_accuracy}
            values |= {"agreement": found.agreement, "kl": found.kl}
        return values


class Evaluator:
    """Accuracy, loss and agreement over a set of images."""

    def __init__(self) -> None:
        self._loss = 0.0
        self._correct: Tensor | None = None
        self._total: Tensor | None = None
        self._comparison: Tensor | None = None

    def update(self, logits: Tensor, labels: Targets, reference: Tensor | None = None) -> None:
        """Add a batch, with the logits of a reference network."""
        classes = logits.shape[1]
        self._loss += float(cross_entropy(logits, labels, reduction="sum"))
        hits = torch.bincount(labels[correct_mask(logits, labels)], minlength=classes)
        count = torch.bincount(labels, minlength=classes)
        self._correct = hits if self._correct is None else self._correct + hits
        self._total = count if self._total is None else self._total + count
        if reference is not None:
            entries = compare(logits, reference, labels, "reference").values()
            means = torch.stack([entry.double() for entry in entries]).cpu()
            sums = torch.zeros_like(means) if self._comparison is None else self._comparison
            self._comparison = sums + len(labels) * means

    def compute(self) -> Evaluation:
        """Metrics over all batches; there has to be one."""
        assert self._correct is not None
        assert self._total is not None
        images = int(self._total.sum())
        fidelity = None
        if self._comparison is not None:
            accuracy, agreed, kl = (self._comparison / images).tolist()
            fidelity = Fidelity(reference_accuracy=accuracy, agreement=agreed, kl=kl)
        return Evaluation(
            accuracy=float(self._correct.sum()) / images,
            loss=self._loss / images,
            images=images,
            per_class=tuple((self._correct.double() / self._total.double()).tolist()),
            fidelity=fidelity,
        )
