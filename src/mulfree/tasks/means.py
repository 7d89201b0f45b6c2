"""Means over an epoch, for tasks whose metrics are means over images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from mulfree.errors import TrainingError, quoted


class Means:
    """Means over an epoch of scalars that are means over a batch, of all ranks together.

    Attributes:
        sums: Sums over the images of this rank, and their number as "images".
    """

    def __init__(self, sums: dict[str, Tensor] | None = None) -> None:
        self.sums: dict[str, Tensor] = {} if sums is None else sums

    def update(self, values: Mapping[str, Tensor], images: int) -> None:
        """Add the means over a batch.

        Raises:
            TrainingError: They have other names than in the batches before.
        """
        sums = self.sums
        if not sums:
            zeros = torch.zeros(len(values) + 1, dtype=torch.float64, device=values["loss"].device)
            sums.update(zip((*values, "images"), zeros.unbind(), strict=True))
        if len(sums) != len(values) + 1 or not sums.keys() >= values.keys():
            raise TrainingError(
                f"train: `train_sums` must be of {', '.join(values)} in the checkpoint, got "
                f"{quoted(list(sums))}"
            )
        for key, value in values.items():
            sums[key].add_(value.detach(), alpha=images)
        sums["images"].add_(images)

    def to(self, device: torch.device) -> None:
        """Move the sums to a device."""
        self.sums = {key: value.to(device) for key, value in self.sums.items()}

    def merged(self) -> dict[str, Tensor]:
        """Sums over the images of all ranks, which call it together."""
        if not self.sums or not (distributed.is_available() and distributed.is_initialized()):
            return self.sums
        stacked = torch.stack(list(self.sums.values()))
        distributed.all_reduce(stacked)
        return dict(zip(self.sums, stacked.unbind(), strict=True))

    def compute(self) -> dict[str, float]:
        """Means over the images of all ranks, which call it together."""
        sums = self.merged()
        images = float(sums["images"]) if sums else 0.0
        return {key: float(value) / images for key, value in sums.items() if key != "images"}
