"""`mulfree quantize`: quantise the network of a checkpoint and print the accuracies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from mulfree.cli import early_exit, resolutions
from mulfree.cli.arguments import Parser, file_path, not_negative, positive, threads
from mulfree.cli.network import Trained, add_data_options, kind_of, load_splits, load_trained
from mulfree.cli.output import print_text
from mulfree.cli.progress import with_progress
from mulfree.cli.quantize_depths import quantize_all_depths
from mulfree.cli.quantize_published import quantize_published
from mulfree.errors import ConfigError
from mulfree.files import check_writable

if TYPE_CHECKING:
    from torch import Tensor

    from mulfree.data import BatchLoader, DataConfig, DataSplits
    from mulfree.runtime import Graph

_BITS = (8, 6, 5, 4)
_OBSERVERS = ("auto", "minmax", "percentile")

_EPILOG = """\
Ranges of values are measured on training images, accuracies on the test images: first of the
floating-point network, then of the integer network, run as by `mulfree run`. The file holds the
network with the first number of bits, of a depth-dynamic network all sub-nets. For a network
trained with method qat, bits and ranges are read from its checkpoint.

With --model, CHECKPOINT holds published weights (see mulfree.models.load_published), ranges are
measured on the pictures of a folder, and by default only 8 bits are tried."""


def main(argv: list[str]) -> int:
    """Run the command with the arguments `argv`."""
    arguments = _parser().parse_args(argv)
    output = arguments.output
    check_writable(output)
    if arguments.model is not None:
        quantize_published(arguments, arguments.bits or _BITS[:1])
        return 0

    # Imported late: torch takes a second to import, which `mulfree -h` does not need.
    import torch

    from mulfree import data, models, runtime, training
    from mulfree.models.dynamic_resolution import DynamicResolutionNetwork
    from mulfree.models.early_exit import AllExits, EarlyExitNetwork
    from mulfree.quantization import Preprocessing, quantize, quantize_resolutions
    from mulfree.training.run.network import image_spec

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    trained = load_trained("quantize", arguments.checkpoint, arguments.data_name)
    config, splits = load_splits("quantize", trained, arguments)
    # A network can have been trained in double precision.
    model = trained.model.float()
    images = _calibration(splits, arguments.images)
    bits, options = _options(arguments, trained, images[0])
    spec = image_spec(config.name, splits)
    preprocessing = Preprocessing(
        mean=spec.mean, std=spec.std, resize=spec.resize, classes=spec.classes
    )
    name = kind_of(model)
    test = data.BatchLoader(
        splits.test, config.eval_batch_size, train=False, transform=splits.test_transform
    )

    options |= {"preprocessing": preprocessing, "name": name}
    if isinstance(model, models.DepthDynamicNetwork):
        quantize_all_depths(model, images, bits, options, test, arguments)
        return 0
    whole = AllExits(model) if isinstance(model, EarlyExitNetwork) else model

    def made(number: int) -> Graph | dict[str, Graph]:
        if isinstance(model, DynamicResolutionNetwork):
            return quantize_resolutions(model, images, number, **options)
        graph = quantize(whole, images, number, **options)
        return graph if whole is model else _with_exits(graph, arguments, config, splits)

    # Quantised before any measurement, to report errors early.
    first = made(bits[0])
    runtime.save(first, output)
    before = training.evaluate(model, with_progress(test, "as it is")).accuracy
    print_text(f"float   {before:7.2%}  ({len(splits.test)} test images)")
    for number in bits:
        graph = first if number == bits[0] else made(number)
        if isinstance(graph, dict):
            accuracy = resolutions.accuracy(graph, test, f"{number} bits", arguments.threads, spec)
            exits = ""
        else:
            accuracy, exits = _accuracy(graph, test, f"{number} bits", arguments.threads)
        points = 100 * (accuracy - before)
        print_text(f"{number} bits  {accuracy:7.2%}  ({points:+.2f} points){exits}")
    print_text(f"{output}: {output.stat().st_size / 1000:,.0f} kB, {bits[0]} bits")
    return 0


def _options(
    arguments: Any, trained: Trained, images: Tensor
) -> tuple[Sequence[int], dict[str, Any]]:
    """Numbers of bits to try, and the other options of `quantize`.

    Options that the training of the network has fixed win.
    """
    options = {
        "observer": arguments.observer,
        "power_of_two_scales": arguments.power_of_two_scales,
        "equalize": arguments.equalize,
    }
    if (checkpoint := trained.checkpoint) is None:
        return arguments.bits or _BITS, options
    _, channels, height, width = images.shape
    shape = channels, height, width
    fixed = checkpoint.config.method.quantize_options(checkpoint, trained.model, shape)
    bits = [fixed.pop("bits")] if "bits" in fixed else _BITS
    options |= fixed
    options["power_of_two_scales"] |= arguments.power_of_two_scales
    return arguments.bits or bits, options


def _parser() -> Parser:
    parser = Parser(
        "mulfree quantize",
        "Quantise the network of a checkpoint to integers, which run without PyTorch.",
        _EPILOG,
    )
    parser.add_argument(
        "checkpoint",
        type=file_path,
        metavar="CHECKPOINT",
        help="a .ckpt or .safetensors file, or a run's directory; with --model published weights",
    )
    parser.add_argument(
        "-o", "--output", type=file_path, metavar="FILE", required=True, help="file to write"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="network of published weights, such as efficientnet_lite0"
    )
    parser.add_argument(
        "--pictures",
        type=file_path,
        metavar="FOLDER",
        help="pictures for measuring ranges, with --model",
    )
    parser.add_argument(
        "--bits",
        nargs="+",
        type=int,
        choices=_BITS,
        help="bits of values and weights, tried one after the other (default: 8 6 5 4, or the "
        "number that the network was trained for)",
    )
    parser.add_argument(
        "--observer", choices=_OBSERVERS, default="auto", help="method of finding ranges"
    )
    parser.add_argument(
        "--power-of-two-scales",
        action="store_true",
        help="round all factors to powers of two, at a loss of accuracy",
    )
    parser.add_argument(
        "--equalize",
        action="store_true",
        help="bring the channels of every value to similar ranges",
    )
    parser.add_argument(
        "--images",
        type=positive,
        default=1024,
        metavar="N",
        help="images for measuring ranges (default: 1024)",
    )
    parser.add_argument(
        "--threshold",
        type=not_negative,
        metavar="T",
        help="of a network with exits, the least confidence for leaving (default: chosen on the "
        "held-out training images)",
    )
    parser.add_argument(
        "--points-lost",
        type=not_negative,
        default=0.5,
        metavar="P",
        help="accuracy in points that this choice may cost there (default: 0.5)",
    )
    parser.add_argument("--threads", type=threads, help="CPU threads")
    add_data_options(parser)
    return parser


def _calibration(splits: DataSplits, count: int) -> list[Tensor]:
    """Training images in random order, preprocessed like test images."""
    from mulfree import data

    size = min(128, count, len(splits.train))
    loader = data.BatchLoader(
        splits.train, size, train=True, drop_last=False, transform=splits.test_transform
    )
    return [images for images, _ in islice(loader, -(-count // size))]


def _with_exits(graph: Graph, arguments: Any, config: DataConfig, splits: DataSplits) -> Graph:
    """The graph with the threshold of the option, or one chosen on held-out training images."""
    from mulfree import data
    from mulfree.runtime import Exits

    threshold = arguments.threshold
    if threshold is None and splits.validation is None:
        raise ConfigError(
            "quantize: `--threshold` must be given for a network with exits whose data.validation "
            "holds out no training images to choose it on"
        )
    if threshold is None:
        assert splits.validation is not None
        held_out = data.BatchLoader(
            splits.validation,
            config.eval_batch_size,
            train=False,
            transform=splits.test_transform,
        )
        outputs = early_exit.integer_outputs(graph, held_out, arguments.threads)
        costs = list(graph.counts_to_outputs().values())
        threshold = early_exit.chosen_threshold(outputs, costs, arguments.points_lost)
    count = len(graph.output_sizes) - 1
    return replace(graph, exits=Exits(thresholds=(float(threshold),) * count))


def _accuracy(
    graph: Graph, test: BatchLoader, label: str, threads: int | None
) -> tuple[float, str]:
    """Accuracy of the integer network on the test images, and where they leave."""
    session = early_exit.open_session("quantize", graph, threads)
    right, taken = 0, Counter[str | None]()
    for images, labels in with_progress(test, label):
        logits, exits = early_exit.classified(session, images.numpy())
        right += int((logits.argmax(axis=1) == labels.numpy()).sum())
        taken.update(exits)
    total = len(test.image_set)
    if graph.exits is None:
        return right / total, ""
    shares = ", ".join(f"{name} {taken[name] / total:.1%}" for name in graph.output_sizes)
    return right / total, f"  threshold {graph.exits.thresholds[0]:.4g}: {shares}"
