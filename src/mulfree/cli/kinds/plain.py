"""Networks of one cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mulfree import runtime
from mulfree.cli.kinds.kind import Accuracy, Integers, Job, Kind, share_correct
from mulfree.quantization import quantize


class Plain(Kind):
    """Any network that is of no other kind."""

    network = nn.Module

    def quantize(
        self, job: Job, images: Sequence[Tensor], bits: int, options: Mapping[str, Any]
    ) -> Integers:
        """Return the integer network."""
        return quantize(job.model, images, bits, **options)

    def integer_accuracies(self, job: Job, integers: Integers, label: str) -> Iterator[Accuracy]:
        """Yield the accuracy."""
        assert isinstance(integers, runtime.Graph)
        session = runtime.Session(integers, threads=job.words.threads)
        yield Accuracy(share_correct(session.run, job.loader(), label))


KIND = Plain()
