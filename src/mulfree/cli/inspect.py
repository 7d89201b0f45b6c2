"""`mulfree inspect`: plots of trained networks, of their weights and of their features."""

from __future__ import annotations

import contextlib
import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mulfree.cli.arguments import Parser, file_path, threads
from mulfree.cli.network import Trained, add_data_options, kind_of, load_splits, load_trained
from mulfree.cli.output import print_text
from mulfree.cli.progress import with_progress
from mulfree.errors import ConfigError, choices_message
from mulfree.files import check_writable

if TYPE_CHECKING:
    from mulfree.data import DataSplits
    from mulfree.inspection import Features, Fit, NetworkWeights

_EPILOG = """\
weights   histograms of the layers between the first and the last, and which law fits them better
features  test images as points, of networks with two features in front of the classifier

`mulfree inspect weights -h` and `mulfree inspect features -h` explain them."""

_WEIGHTS_EPILOG = """\
Fits the Gaussian and the Laplace density under which the weights are most likely, and compares
their mean log-likelihoods, in nats a weight. Of the layers between the first and the last those of
the network's operator count. The last row, which is drawn, is all of them together after each
was given mean 0 and standard deviation 1."""

_FEATURES_EPILOG = """\
A network with two features is, for example, that of
  mulfree train --model.options.embedding 2"""

_COLUMNS = ("layer", "better", "by", "Gaussian", "Laplace", "kurtosis", "mean", "std", "weights")
_TEXT_COLUMNS = 2


def main(argv: list[str]) -> int:
    """Run the command."""
    plots = {"weights": _weights, "features": _features}
    if argv and argv[0] in plots:
        return plots[argv[0]](argv[1:])
    parser = Parser("mulfree inspect", "Draw weights and features of trained networks.", _EPILOG)
    parser.add_argument("plot", metavar="PLOT", help=" or ".join(plots))
    name = parser.parse_args(argv[:1]).plot
    raise ConfigError(choices_message("inspect", "plot", name, plots))


def _weights(argv: list[str]) -> int:
    parser = _parser("weights", "Draw weights and the law that fits them better.", _WEIGHTS_EPILOG)
    parser.add_argument("--layers", action="store_true", help="draw every layer, too")
    arguments = parser.parse_args(argv)
    output = _output(arguments)

    from mulfree import inspection, models, training

    found: list[tuple[Path, str, NetworkWeights]] = []
    for path in arguments.networks:
        model = training.load_model(path)
        with _naming(path):
            weights = inspection.inspect_weights(
                model, models.config_of(model).arguments["operator"]
            )
        found.append((path, kind_of(model), weights))
    panels = [(_title(path, kind), weights) for path, kind, weights in found]
    inspection.save(inspection.plot_weights(panels, layers=arguments.layers), output)
    if arguments.json:
        values = [{"network": str(path), "kind": kind, **_numbers(w)} for path, kind, w in found]
        print(json.dumps(values, indent=2))
    else:
        tables = [_table(f"{path}: {kind}", weights) for path, kind, weights in found]
        print_text("\n".join([*tables, f"{output}: the last row of each table"]))
    return 0


def _features(argv: list[str]) -> int:
    parser = _parser("features", "Draw test images as points of the plane.", _FEATURES_EPILOG)
    parser.add_argument("--threads", type=threads, help="CPU threads")
    add_data_options(parser)
    arguments = parser.parse_args(argv)
    output = _output(arguments)

    import torch

    from mulfree import inspection

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    networks = [
        (path, load_trained("inspect", path, arguments.data_name)) for path in arguments.networks
    ]
    names = sorted({trained.data.name for _, trained in networks})
    if len(names) > 1:
        raise ConfigError(
            f"inspect: `NET` must be networks of one data set, got {' and '.join(names)}"
        )
    for path, trained in networks:
        with _naming(path):
            inspection.classifier_of(trained.model)
    found: list[tuple[Path, str, Features]] = []
    for path, trained in networks:
        splits, points = _points(path, trained, arguments)
        found.append((path, kind_of(trained.model), points))
    panels = [(_title(path, kind), points) for path, kind, points in found]
    inspection.save(inspection.plot_features(panels, splits.classes), output)
    if arguments.json:
        values = [
            {"network": str(path), "kind": kind, "accuracy": points.accuracy}
            for path, kind, points in found
        ]
        print(json.dumps(values, indent=2))
    else:
        for path, kind, points in found:
            print_text(f"{path}: {kind}, accuracy {points.accuracy:.2%}")
        print_text(f"{output}: {len(splits.test)} test images of {names[0]}")
    return 0


def _points(path: Path, trained: Trained, arguments: Namespace) -> tuple[DataSplits, Features]:
    """Test images with the preprocessing of the training, and their features."""
    import torch

    from mulfree import data, inspection

    with _naming(path):
        config, splits = load_splits("inspect", trained, arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = data.BatchLoader(
        splits.test,
        config.eval_batch_size,
        train=False,
        transform=splits.test_transform,
        device=device,
    )
    return splits, inspection.features(trained.model.to(device), with_progress(loader, str(path)))


def _parser(plot: str, description: str, epilog: str) -> Parser:
    parser = Parser(f"mulfree inspect {plot}", description, epilog)
    parser.add_argument(
        "networks",
        nargs="+",
        type=file_path,
        metavar="NET",
        help="a .ckpt or .safetensors file, or a run's directory",
    )
    parser.add_argument(
        "-o", "--output", type=file_path, metavar="FILE.png", required=True, help="file to write"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _output(arguments: Namespace) -> Path:
    path: Path = arguments.output
    if path.suffix.lower() != ".png":
        raise ConfigError(f"inspect: `--output` must end in .png, got {path}")
    check_writable(path)
    return path


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the network to the message of an error."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{error} ({path})") from error


def _title(path: Path, kind: str) -> str:
    return f"{'/'.join(path.parts[-2:])}\n{kind}"


def _numbers(weights: NetworkWeights) -> dict[str, Any]:
    def values(found: Fit) -> dict[str, Any]:
        return {"better": found.better, "difference": found.difference, **asdict(found)}

    layers = {name: values(sample.fit) for name, sample in weights.layers.items()}
    return {"pooled": values(weights.pooled.fit), "layers": layers}


def _table(title: str, weights: NetworkWeights) -> str:
    from mulfree.cost.table import text_table

    def row(name: str, found: Fit) -> list[str]:
        numbers = (found.gaussian, found.laplace, found.kurtosis, found.mean, found.std)
        return [
            name,
            found.better.capitalize(),
            f"{abs(found.difference):.4f}",
            *(f"{number:.4f}" for number in numbers),
            str(found.count),
        ]

    rows = [row(name, sample.fit) for name, sample in weights.layers.items()]
    total = row("all, standardised", weights.pooled.fit)
    return text_table(title, _COLUMNS, rows, left=_TEXT_COLUMNS, total=total)
