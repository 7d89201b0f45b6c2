"""Effect of teachers on an adder network, over seeds: `python benchmarks/accuracy.py RECIPE`.

The recipe is one of pkkd. From it come the network with convolutions, the adder network alone, kd
and the grid of arXiv 2009.13044: {none, 1x1, kernel, both} for feature matching, with a teacher
that is trained already (the network with convolutions of the same seed) or jointly (progressive).
Everything else is equal. A run that is there is not run again, and one that was stopped goes on, so
the same command finishes what was begun; other processes may take other seeds in the same folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mulfree.errors import MulfreeError
from mulfree.scaling.runs import trained
from mulfree.training import TrainConfig, read_config
from mulfree.training.losses.distillation import DistillationConfig
from mulfree.training.methods import kd, pkkd, supervised
from mulfree.training.run.report import METRICS_CSV, METRICS_JSON

CONVOLUTION, ADDER, KD, PKKD = "convolution", "adder", "kd", "pkkd"
TRAINED, LEARNING = "trained", "progressive"
# Transforms of the outputs of layers before they are compared.
TRANSFORMS: dict[str, dict[str, Any]] = {
    "none": {"use_kernel": False, "projection": "none"},
    "1x1": {"use_kernel": False},
    "kernel": {"projection": "none"},
    "both": {},
}
GRID = [f"{PKKD}-{name}-{teacher}" for teacher in (TRAINED, LEARNING) for name in TRANSFORMS]
NETWORKS = [CONVOLUTION, ADDER, KD, *GRID]
# Columns of the table, with their formats.
COLUMNS = {
    "validation_accuracy": ".2f",
    "test_accuracy": ".2f",
    "ahead": "+.2f",
    "test_agreement": ".2f",
}


def main() -> None:
    """Train missing networks, and print a table of all finished ones."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a recipe of pkkd")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORKS,
        default=NETWORKS,
        metavar="NETWORK",
        help=f"some of {', '.join(NETWORKS)}",
    )
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("options", nargs="*", help="options of `mulfree train`, after --")
    # Intermixed: the recipe may be apart from the words after --.
    arguments = parser.parse_intermixed_args()
    try:
        base = read_config(["--config", arguments.recipe, *arguments.options])
    except MulfreeError as error:
        parser.error(str(error))
    if not isinstance(base.method, pkkd.Config):
        parser.error(f"`recipe` must be of pkkd, got {base.method.name}")
    if base.method.teacher is not None:
        parser.error(f"`method.teacher` must be left out, got {base.method.teacher}")
    if not arguments.table:
        for seed in arguments.seeds:
            for network in arguments.networks:
                _train(arguments.output, network, seed, base, base.method)
    print("\n".join(_table(arguments.output)))


def _train(output: Path, network: str, seed: int, base: TrainConfig, method: pkkd.Config) -> None:
    directory = _directory(output, network, seed)
    if (directory / METRICS_JSON).exists():
        return
    teacher = str(_directory(output, CONVOLUTION, seed))
    model = base.model
    chosen: supervised.Config | DistillationConfig = supervised.Config()
    if network == CONVOLUTION:
        model = replace(model, operator="conv2d")
    elif network == KD:
        chosen = kd.Config(
            teacher=teacher,
            alpha=method.alpha,
            loss_weighting=method.loss_weighting,
            temperature=method.temperature,
        )
    elif network != ADDER:
        _, transform, mode = network.split("-")
        teachers = {TRAINED: teacher, LEARNING: None}
        chosen = replace(method, **TRANSFORMS[transform], teacher=teachers[mode])
    if isinstance(chosen, DistillationConfig) and chosen.teacher == teacher:
        _train(output, CONVOLUTION, seed, base, method)
    trainer = replace(base.trainer, seed=seed)
    config = replace(base, model=model, method=chosen, trainer=trainer)
    print(directory, flush=True)
    if trained(config, directory) is None:
        sys.exit(f"accuracy: {directory} was stopped; run the same command")


def _directory(output: Path, network: str, seed: int) -> Path:
    return output / f"{network}-seed{seed}"


def _table(output: Path) -> Iterator[str]:
    """Lines of Markdown: the networks of the last epoch, of all seeds that are finished."""
    yield (
        "| network | seeds | validation | test | test, less the convolution's of the same seed "
        "| agreement with the teacher |"
    )
    yield "|---|---|---|---|---|---|"
    found = {network: _runs(output, network) for network in NETWORKS}
    for network, runs in found.items():
        for seed in runs.keys() & found[CONVOLUTION].keys():
            if network != CONVOLUTION:
                other = found[CONVOLUTION][seed]
                runs[seed]["ahead"] = runs[seed]["test_accuracy"] - other["test_accuracy"]
        if runs:
            cells = [
                _spread([run[key] for run in runs.values() if key in run], form)
                for key, form in COLUMNS.items()
            ]
            yield f"| {' | '.join([network, str(len(runs)), *cells])} |"


def _runs(output: Path, network: str) -> dict[str, dict[str, Any]]:
    """Results of finished runs, by seed."""
    files = output.glob(f"{network}-seed*/{METRICS_JSON}")
    return {file.parent.name.rpartition("-seed")[2]: _results(file.parent) for file in files}


def _results(run: Path) -> dict[str, Any]:
    """Of the last epoch by the images of every part."""
    with (run / METRICS_CSV).open() as file:
        *_, last = csv.DictReader(file)
    results: dict[str, Any] = json.loads((run / METRICS_JSON).read_text())
    return results | {key: float(last[key]) for key in last if key.startswith("validation_")}


def _spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation, in percent."""
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):{form}} %"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.2f}"


if __name__ == "__main__":
    main()
