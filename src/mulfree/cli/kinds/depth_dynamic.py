"""Networks of several depths: one file of all sub-nets, the accuracy and the cost of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mulfree import models, runtime, training
from mulfree.cli.kinds.kind import Accuracy, Findings, Integers, Job, Kind, Part, share_correct
from mulfree.cli.progress import with_progress
from mulfree.errors import ConfigError, printable
from mulfree.models import DepthDynamicNetwork
from mulfree.quantization import quantize_depths


class DepthDynamic(Kind):
    """Depth-dynamic networks."""

    network = DepthDynamicNetwork
    file_note = ", all sub-nets"
    parts_name = "subnets"

    def quantize(
        self, job: Job, images: Sequence[Tensor], bits: int, options: Mapping[str, Any]
    ) -> Integers:
        """Return the integers of all sub-nets.

        Raises:
            ConfigError: Channels were to be equalised, which would give each sub-net other weights.
        """
        assert isinstance(job.model, DepthDynamicNetwork)
        options = dict(options)
        if options.pop("equalize", False):
            raise ConfigError(
                "quantize: `--equalize` must be left out for a depth-dynamic network, whose "
                "sub-nets share their weights, got True"
            )
        return quantize_depths(job.model, images, bits, **options)

    def float_accuracies(self, job: Job) -> Iterator[Accuracy]:
        """Yield the accuracy of every sub-net."""
        assert isinstance(job.model, DepthDynamicNetwork)
        for depth in job.model.depths:
            subnet = job.model.extract(depth)
            found = training.evaluate(subnet, with_progress(job.loader(), depth))
            yield Accuracy(found.accuracy, depth)

    def integer_accuracies(self, job: Job, integers: Integers, label: str) -> Iterator[Accuracy]:
        """Yield the accuracy of every sub-net."""
        assert isinstance(integers, dict)
        content, depths = runtime.artifact.to_bytes(integers), list(integers)
        session = runtime.Session(content, depth=depths[0], threads=job.words.threads)
        for depth in depths:
            session.depth = depth
            found = share_correct(session.run, job.loader(), f"{depth}, {label}")
            yield Accuracy(found, depth)

    def evaluate(self, job: Job) -> Findings:
        """Return accuracy and loss of the sub-nets."""
        loader = job.loader(job.words.split)
        values, lines = {}, []
        for name, subnet in models.shallower(job.model).items():
            found = training.evaluate(subnet, with_progress(loader, name))
            # JSON has neither infinities nor NaN.
            loss = found.loss if math.isfinite(found.loss) else None
            values[name] = {"accuracy": found.accuracy, "loss": loss}
            accuracy = f"accuracy {found.accuracy:.2%}  loss {found.loss:.4f}"
            lines.append(f"  {printable(name)}: {accuracy}")
        return Findings(values={self.parts_name: values}, text="\n".join(lines))

    def parts(self, model: nn.Module, input_size: tuple[int, ...] | None) -> dict[str, Part]:
        """Return all sub-nets and the full network."""
        size = input_size or models.input_size(model)
        networks = {
            **models.shallower(model),
            models.config_of(model).arguments["network"]: model,
        }
        return {name: Part(network, size) for name, network in networks.items()}


KIND = DepthDynamic()
