"""`mulfree quantize`: quantise the network of a checkpoint and print the accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from mulfree.cli.arguments import Parser, file_path, not_negative, positive, threads
from mulfree.cli.network import Trained, add_data_options, kind_of, load_splits, load_trained
from mulfree.cli.output import print_text
from mulfree.cli.quantize_published import quantize_published
from mulfree.files import check_writable

if TYPE_CHECKING:
    from torch import Tensor

    from mulfree.cli.kinds.kind import Accuracy
    from mulfree.data import DataSplits

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

    from mulfree import runtime
    from mulfree.cli.kinds import find_kind
    from mulfree.cli.kinds.kind import Job
    from mulfree.quantization import Preprocessing
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
    options["name"] = kind_of(model)
    options["preprocessing"] = Preprocessing(
        mean=spec.mean, std=spec.std, resize=spec.resize, classes=spec.classes
    )
    job, kind = Job(model=model, words=arguments, config=config, splits=splits), find_kind(model)

    # Quantised before any measurement, to report errors early.
    first = kind.quantize(job, images, bits[0], options)
    runtime.save(first, output)
    before = {}
    for found in kind.float_accuracies(job):
        before[found.name] = found.value
        print_text(f"float   {_cell(found)}  ({len(splits.test)} test images)")
    for number in bits:
        made = first if number == bits[0] else kind.quantize(job, images, number, options)
        for found in kind.integer_accuracies(job, made, f"{number} bits"):
            points = 100 * (found.value - before[found.name])
            print_text(f"{number} bits  {_cell(found)}  ({points:+.2f} points){found.note}")
    size = output.stat().st_size / 1000
    print_text(f"{output}: {size:,.0f} kB, {bits[0]} bits{kind.file_note}")
    return 0


def _cell(accuracy: Accuracy) -> str:
    name = f"  {accuracy.name}" if accuracy.name else ""
    return f"{accuracy.value:7.2%}{name}"


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
