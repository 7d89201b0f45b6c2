"""A network with exits against static ones of several depths: `python benchmarks/early_exit.py`.

    python benchmarks/early_exit.py recipes/cifar10/early_exit_adder2d_resnet20_15ep.yaml \
        --output DIR -- --data.root cifar10

Trains the network of a recipe of the model `early_exit`, and the network inside with 1, 2, ...
blocks in each stage, all with the same budget and seed. All become integers. Thresholds are chosen
on held-out training images, once for each loss of accuracy that is allowed there; accuracy,
operations and milliseconds are those of the test images. Weights are those of the last epoch. A run
that is there is not run again, and one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mulfree import data, inspection, training
from mulfree.bench.timing import interleave
from mulfree.cli.early_exit import integer_outputs
from mulfree.errors import ConfigError, MulfreeError
from mulfree.files import write_atomically
from mulfree.models.early_exit import AllExits, EarlyExitNetwork
from mulfree.quantization import Preprocessing, quantize
from mulfree.runtime import EarlyExitSession, Graph, Session
from mulfree.scaling.runs import trained
from mulfree.tasks.classification.early_exit import ExitPoint, candidates, choose, exit_curve
from mulfree.training import NetworkConfig, TrainConfig, read_config
from mulfree.training.methods import early_exit, supervised
from mulfree.training.run.network import image_spec

EXITS = "early_exit"
RESULTS, TABLE = "results.json", "table.md"
PLOTS = {"additions": "additions.png", "milliseconds": "milliseconds.png"}
LOST = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def main() -> None:
    """Train what is missing, and write table, plots and results."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a recipe of the model early_exit")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2, 3], help="static networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lost", type=float, nargs="+", default=LOST, help="points of accuracy")
    parser.add_argument("--calibration", type=int, default=1024, help="images for the ranges")
    parser.add_argument("--timed", type=int, default=256, help="test images that are timed")
    parser.add_argument("--rounds", type=int, default=9, help="of the timing")
    parser.add_argument("options", nargs="*", help="options of `mulfree train`, after --")
    # Intermixed: the recipe may be apart from the words after --.
    arguments = parser.parse_intermixed_args()
    try:
        config = read_config(["--config", arguments.recipe, *arguments.options])
        _check(config)
        rows = [row for seed in arguments.seeds for row in _rows(config, seed, arguments)]
        _write(arguments, config, rows)
    except MulfreeError as error:
        parser.error(str(error))


def _check(config: TrainConfig) -> None:
    if config.model.name != EXITS or not isinstance(config.method, early_exit.Config):
        raise ConfigError(
            f"benchmarks.early_exit: `recipe` must be of model and method early_exit, "
            f"got {config.model.name}"
        )
    if not config.data.validation:
        raise ConfigError(
            "benchmarks.early_exit: `data.validation` must hold out images for the thresholds, "
            "got 0"
        )


def static(config: TrainConfig, blocks: int) -> TrainConfig:
    """Return the run of the network inside with some blocks in each stage."""
    options: dict[str, Any] = dict(config.model.options)
    inner = dict(options.pop("network_options", None) or {})
    options.pop("exits", None)
    name = str(options.pop("network", "resnet20"))
    stages = len(inner.get("blocks", (0, 0, 0)))
    model = NetworkConfig(
        name=name,
        operator=config.model.operator,
        options={**options, **inner, "blocks": [blocks] * stages},
    )
    assert isinstance(config.method, early_exit.Config)
    method = supervised.Config(label_smoothing=config.method.label_smoothing)
    return replace(config, model=model, method=method)


def _rows(
    config: TrainConfig, seed: int, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield one row for each loss of the network with exits, and each static network."""
    config = replace(config, trainer=replace(config.trainer, seed=seed))
    runs = {EXITS: config}
    runs |= {f"blocks{count}": static(config, count) for count in arguments.blocks}
    splits = data.load(config.data)
    graphs = {}
    for name, run in runs.items():
        directory = arguments.output / f"{name}-seed{seed}"
        print(directory, flush=True)
        if trained(run, directory) is None:
            sys.exit(f"early_exit: {directory} was stopped; run the same command")
        graphs[name] = _quantized(directory, config, splits, arguments.calibration)
    whole = graphs.pop(EXITS)
    load = partial(_loader, splits, config)
    points = _points(whole, load, arguments.lost)
    images = splits.test.images[: arguments.timed].numpy()
    seconds = _timed(whole, points, graphs, images, arguments.rounds)
    costs = whole.counts_to_outputs()
    for lost, point in points:
        mean = {
            kind: sum(s * c[kind] for s, c in zip(point.shares, costs.values(), strict=True))
            for kind in ("add", "mul")
        }
        yield {
            "network": EXITS,
            "seed": seed,
            "lost": lost,
            "threshold": point.threshold,
            "accuracy": point.accuracy,
            "additions": mean["add"],
            "multiplications": mean["mul"],
            "shares": dict(zip(costs, point.shares, strict=True)),
            "milliseconds": 1e3 * seconds[f"{EXITS} {lost:g}"],
        }
    for name, graph in graphs.items():
        (logits,), labels = integer_outputs(graph, load("test"), None)
        (total,) = graph.counts_to_outputs().values()
        yield {
            "network": name,
            "seed": seed,
            "accuracy": float((logits.argmax(axis=1) == labels).mean()),
            "additions": total.add,
            "multiplications": total.mul,
            "milliseconds": 1e3 * seconds[name],
        }


def _quantized(
    directory: Path, config: TrainConfig, splits: data.DataSplits, calibration: int
) -> Graph:
    model = training.load_model(directory)
    spec = image_spec(config.data.name, splits)
    size = min(128, calibration, len(splits.train))
    loader = data.BatchLoader(
        splits.train, size, train=True, drop_last=False, transform=splits.test_transform
    )
    return quantize(
        AllExits(model) if isinstance(model, EarlyExitNetwork) else model,
        [images for images, _ in islice(loader, -(-calibration // size))],
        preprocessing=Preprocessing(
            mean=spec.mean, std=spec.std, resize=spec.resize, classes=spec.classes
        ),
    )


def _loader(splits: data.DataSplits, config: TrainConfig, part: str) -> data.BatchLoader:
    return data.BatchLoader(
        getattr(splits, part),
        config.data.eval_batch_size,
        train=False,
        transform=splits.test_transform,
    )


def _points(graph: Graph, load: Any, allowed: Sequence[float]) -> list[tuple[float, ExitPoint]]:
    """Points on the test images, with the thresholds of held-out images."""
    costs = [float(count.total) for count in graph.counts_to_outputs().values()]
    held_out, held_labels = integer_outputs(graph, load("validation"), None)
    curve = exit_curve(held_out, held_labels, costs, candidates(held_out))
    logits, labels = integer_outputs(graph, load("test"), None)
    thresholds = [choose(curve, lost=lost).threshold for lost in allowed]
    return list(zip(allowed, exit_curve(logits, labels, costs, thresholds), strict=True))


def _timed(
    graph: Graph,
    points: Sequence[tuple[float, ExitPoint]],
    others: Mapping[str, Graph],
    images: np.ndarray[Any, np.dtype[np.uint8]],
    rounds: int,
) -> dict[str, float]:
    """Median seconds of an image on one thread, one image after the other in one batch."""
    calls: dict[str, Any] = {}
    for lost, point in points:
        session = EarlyExitSession(graph, thresholds=point.threshold, threads=1)
        calls[f"{EXITS} {lost:g}"] = partial(session.run_exits, images)
    for name, other in others.items():
        calls[name] = partial(Session(other, threads=1).run, images)
    samples = interleave(calls, rounds=rounds)
    return {name: statistics.median(taken) / len(images) for name, taken in samples.items()}


def _write(
    arguments: argparse.Namespace, config: TrainConfig, rows: Sequence[Mapping[str, Any]]
) -> None:
    output: Path = arguments.output
    content = {"config": config.to_dict(), "rows": list(rows), "torch": torch.__version__}
    write_atomically(output / RESULTS, json.dumps(content, indent=1).encode() + b"\n")
    text = "".join(f"{line}\n" for line in table(rows))
    write_atomically(output / TABLE, text.encode())
    print(text, end="")
    for cost, file in PLOTS.items():
        seeds = sorted({row["seed"] for row in rows})
        curves = {
            f"early exit, seed {seed}": [
                ExitPoint(
                    threshold=row["threshold"],
                    accuracy=row["accuracy"],
                    cost=row[cost],
                    shares=tuple(row["shares"].values()),
                )
                for row in rows
                if row["network"] == EXITS and row["seed"] == seed
            ]
            for seed in seeds
        }
        points = {
            f"{row['network']}, seed {row['seed']}": (row[cost], row["accuracy"])
            for row in rows
            if row["network"] != EXITS
        }
        inspection.save(inspection.plot_exits(curves, points, cost), output / file)


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown."""
    head = "network | seed | threshold | test accuracy | additions | multiplications | ms | exits"
    yield f"| {head} |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in row.get("shares", {}).items())
        threshold = f"{row['threshold']:.4g}" if "threshold" in row else ""
        yield (
            f"| {row['network']} | {row['seed']} | {threshold} | {row['accuracy']:.2%} "
            f"| {row['additions'] / 1e6:.2f} M | {row['multiplications'] / 1e6:.2f} M "
            f"| {row['milliseconds']:.3f} | {shares} |"
        )


if __name__ == "__main__":
    main()
