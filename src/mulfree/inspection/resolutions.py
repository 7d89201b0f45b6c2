"""Choices of a network of dynamic resolution on images: shares, accuracies, mean cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mulfree.cost import count_resolutions
from mulfree.errors import DataError
from mulfree.models.dynamic_resolution import PREDICTOR, DynamicResolutionNetwork
from mulfree.tasks.classification.metrics import correct_mask


@dataclass(frozen=True, kw_only=True)
class Resolutions:
    """Choices of a network of dynamic resolution on a set of images.

    Attributes:
        sides: Candidate resolutions.
        images: Number of images that chose each.
        accuracies: Accuracy of all images at each alone.
        accuracy: Accuracy of every image at its resolution.
        operations: Operations of the classifier at each resolution, for one image.
        predictor_operations: Operations of the predictor.
        easiest: Images with the smallest expected side, `[K, C, H, W]`, easiest first.
        hardest: Images with the largest expected side, hardest first.
    """

    sides: tuple[int, ...]
    images: tuple[int, ...]
    accuracies: tuple[float, ...]
    accuracy: float
    operations: tuple[int, ...]
    predictor_operations: int
    easiest: Tensor
    hardest: Tensor

    @property
    def mean_operations(self) -> float:
        """Operations for an image, with the predictor's."""
        pairs = zip(self.images, self.operations, strict=True)
        return self.predictor_operations + sum(n * c for n, c in pairs) / sum(self.images)


@torch.inference_mode()
def inspect_resolutions(
    model: DynamicResolutionNetwork, batches: Iterable[tuple[Tensor, Tensor]], *, shown: int = 8
) -> Resolutions:
    r"""Return the choices of a network in evaluation mode on all images.

    Images are ordered by the expected side :math:`\sum_j p_j r_j` of the predictor's
    probabilities.

    Args:
        model: A network of `create_model`; left in the mode it was in.
        batches: Images and labels, on the model's device.
        shown: Number of easiest and of hardest images to keep.

    Raises:
        DataError: There was no batch.
    """
    training, dtype = model.training, next(p.dtype for p in model.parameters())
    count = len(model.resolutions)
    chosen, right = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    dynamic = 0
    kept = {True: (torch.empty(0), torch.empty(0)), False: (torch.empty(0), torch.empty(0))}
    model.eval()
    try:
        for batch, labels in batches:
            images = batch.to(dtype)
            predicted = model.predictor_logits(images)
            choice = predicted.argmax(1).cpu()
            sides = torch.tensor(model.resolutions, dtype=dtype, device=images.device)
            expected = (predicted.softmax(1) * sides).sum(1)
            hits = torch.stack(
                [correct_mask(model.logits_at(images, r), labels) for r in model.resolutions]
            ).cpu()
            chosen += choice.bincount(minlength=count)
            right += hits.sum(1)
            dynamic += int(hits[choice, torch.arange(len(choice))].sum())
            for largest in kept:
                kept[largest] = _extremes(*kept[largest], expected, images, shown, largest)
    finally:
        model.train(training)
    total = int(chosen.sum())
    if not total:
        raise DataError("inspect_resolutions: `batches` must hold at least one image, got none")
    costs = {name: p.total.cost.total for name, p in count_resolutions(model).items()}
    predictor = costs.pop(PREDICTOR)
    return Resolutions(
        sides=model.resolutions,
        images=tuple(chosen.tolist()),
        accuracies=tuple((right / total).tolist()),
        accuracy=dynamic / total,
        operations=tuple(costs.values()),
        predictor_operations=predictor,
        easiest=kept[False][1],
        hardest=kept[True][1],
    )


def _extremes(
    values: Tensor, images: Tensor, more: Tensor, others: Tensor, count: int, largest: bool
) -> tuple[Tensor, Tensor]:
    """Largest or smallest values, extreme ones first, and their images."""
    values, images = (
        torch.cat([values, more.cpu()]),
        (torch.cat([images, others.cpu()]) if len(images) else others.cpu()),
    )
    best = values.argsort(descending=largest, stable=True)[:count]
    return values[best], images[best]
