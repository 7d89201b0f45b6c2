"""Networks of dynamic resolution: predictor and classifier at each resolution, their choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mulfree import inspection
from mulfree.cli.kinds.kind import Accuracy, Findings, Integers, Job, Kind, Part, share_correct
from mulfree.cli.progress import with_progress
from mulfree.cost.table import scaled, text_table
from mulfree.models.dynamic_resolution import DynamicResolutionNetwork
from mulfree.quantization import quantize_resolutions
from mulfree.runtime import DynamicResolutionSession


class DynamicResolution(Kind):
    """Networks of dynamic resolution."""

    network = DynamicResolutionNetwork
    has_plot = True
    has_whole = False

    def quantize(
        self, job: Job, images: Sequence[Tensor], bits: int, options: Mapping[str, Any]
    ) -> Integers:
        """Return the integers of the predictor, and of the classifier at each resolution."""
        assert isinstance(job.model, DynamicResolutionNetwork)
        return quantize_resolutions(job.model, images, bits, **options)

    def integer_accuracies(self, job: Job, integers: Integers, label: str) -> Iterator[Accuracy]:
        """Yield the accuracy of all images at their resolutions."""
        assert isinstance(integers, dict)
        session = DynamicResolutionSession(integers, threads=job.words.threads)
        mean, std = (np.reshape(row, (-1, 1, 1)) for row in (job.splits.mean, job.splits.std))

        def run(images: NDArray[Any]) -> NDArray[np.float32]:
            # Resizing is defined for pixels.
            pixels = ((images * std + mean) * 255).round().clip(0, 255).astype(np.uint8)
            return session.run(pixels)

        yield Accuracy(share_correct(run, job.loader(), label))

    def evaluate(self, job: Job) -> Findings:
        """Return the choices, and plot them."""
        assert isinstance(job.model, DynamicResolutionNetwork)
        loader = with_progress(job.loader(job.words.split), "resolutions")
        found = inspection.inspect_resolutions(job.model, loader)
        if job.words.plot is not None:
            figure = inspection.plot_resolutions(found, job.splits.mean, job.splits.std)
            inspection.save(figure, job.words.plot)
        return Findings(values=_to_json(found), text=_to_text(found))

    def parts(self, model: nn.Module, input_size: tuple[int, ...] | None) -> dict[str, Part]:
        """Return predictor and classifier, each at a size of its own."""
        assert isinstance(model, DynamicResolutionNetwork)
        return {
            name: Part(network, (model.in_channels, side, side))
            for name, (network, side) in model.extract_all().items()
        }


def _to_text(found: inspection.Resolutions) -> str:
    """Table of the candidate resolutions, and the mean cost."""
    total = sum(found.images)
    rows = [
        [str(side), f"{count / total:.1%}", f"{accuracy:.2%}", scaled(operations)]
        for side, count, accuracy, operations in zip(
            found.sides, found.images, found.accuracies, found.operations, strict=True
        )
    ]
    table = text_table(
        "Resolutions", ("side", "images", "accuracy alone", "operations"), rows, left=1
    )
    cost = found.mean_operations
    return (
        f"{table}mean cost {scaled(round(cost))} operations, "
        f"{cost / max(found.operations):.1%} of the largest resolution, with "
        f"{scaled(found.predictor_operations)} of the predictor"
    )


def _to_json(found: inspection.Resolutions) -> dict[str, Any]:
    rows = zip(found.sides, found.images, found.accuracies, found.operations, strict=True)
    names = ("side", "images", "accuracy_alone", "operations")
    return {
        "resolutions": [dict(zip(names, row, strict=True)) for row in rows],
        "predictor_operations": found.predictor_operations,
        "mean_operations": found.mean_operations,
    }


KIND = DynamicResolution()
