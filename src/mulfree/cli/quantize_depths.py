"""`mulfree quantize` of a depth-dynamic network: one file of all sub-nets."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mulfree.cli.output import print_text
from mulfree.cli.progress import with_progress
from mulfree.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from mulfree.data import BatchLoader
    from mulfree.models import DepthDynamicNetwork
    from mulfree.runtime import Session


def quantize_all_depths(
    model: DepthDynamicNetwork,
    images: Sequence[Tensor],
    bits: Sequence[int],
    options: dict[str, Any],
    test: BatchLoader,
    arguments: Namespace,
) -> None:
    """Write the file of the first number of bits, and print the accuracies of all sub-nets.

    Args:
        model: The network.
        images: Batches for measuring ranges.
        bits: Numbers of bits to try.
        options: Options of `mulfree.quantization.quantize`.
        test: The test images.
        arguments: Options of the command.

    Raises:
        ConfigError: Channels were to be equalised, which would give each sub-net other weights.
    """
    from mulfree import runtime, training
    from mulfree.quantization import quantize_depths

    if options.pop("equalize", False):
        raise ConfigError(
            "quantize: `--equalize` must be left out for a depth-dynamic network, whose sub-nets "
            "share their weights, got True"
        )
    output = arguments.output
    # Quantised before any measurement, to report errors early.
    graphs = quantize_depths(model, images, bits[0], **options)
    runtime.save(graphs, output)
    before = {}
    for depth in model.depths:
        subnet = model.extract(depth)
        before[depth] = training.evaluate(subnet, with_progress(test, depth)).accuracy
        print_text(f"float   {before[depth]:7.2%}  {depth}  ({len(test.image_set)} test images)")
    for number in bits:
        if number != bits[0]:
            graphs = quantize_depths(model, images, number, **options)
        session = runtime.Session(
            runtime.artifact.to_bytes(graphs), depth=model.depths[0], threads=arguments.threads
        )
        for depth in model.depths:
            session.depth = depth
            accuracy = _accuracy(session, test, f"{depth}, {number} bits")
            points = 100 * (accuracy - before[depth])
            print_text(f"{number} bits  {accuracy:7.2%}  {depth}  ({points:+.2f} points)")
    print_text(f"{output}: {output.stat().st_size / 1000:,.0f} kB, {bits[0]} bits, all sub-nets")


def _accuracy(session: Session, test: BatchLoader, label: str) -> float:
    hits = (
        session.run(images.numpy()).argmax(axis=1) == labels.numpy()
        for images, labels in with_progress(test, label)
    )
    return sum(int(hit.sum()) for hit in hits) / len(test.image_set)
