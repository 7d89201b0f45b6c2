"""Fine-tuning of real ImageNet weights against training from scratch with the same steps.

    MULFREE_DATA=... python -m benchmarks.transfer --output DIR

Networks, data sets, shares of the labels and ways of training are tried in turn; a finished run is
not run again, so the same command finishes what was begun. Of the learning rates of `--lrs` the
table has the one with the best accuracy on held-out training images. `--table` trains nothing.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.transfer import report
from benchmarks.transfer.budget import accuracies, read, record, train_for
from benchmarks.transfer.options import make_parser, parse
from benchmarks.transfer.sources import DATA, NETWORKS, data_of, load, splits_of

from mulfree.data import DataSplits
from mulfree.training import NetworkConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from mulfree.training.methods import finetune, supervised
from mulfree.training.run.config import TrainerConfig

BATCH = 32
FRACTIONS = (0.01, 0.1, 1.0)
# Learning rate of each way of training; fixed in advance unless `--lrs` gives several.
MODES = {"finetune": 1e-3, "frozen": 3e-3, "scratch": 3e-3}


def main() -> None:
    """Train what is missing; write table and plot."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--lrs", type=float, nargs="+", help="default: one for each mode")
    options = parse(parser)
    if not options.table:
        _train(options)
    report.write(options.output, read(options.output, "*-seed*.json"))
    print((options.output / report.TABLE).read_text())


def _train(options: argparse.Namespace) -> None:
    for name, network in itertools.product(options.data, options.networks):
        whole: DataSplits | None = None
        runs = itertools.product(options.seeds, FRACTIONS, options.modes)
        for seed, fraction, mode in runs:
            for lr in options.lrs or [MODES[mode]]:
                path = options.output / _file(network, name, mode, fraction, lr, seed)
                if path.exists():
                    continue
                whole = whole or load(name)
                config = config_of(network, name, mode, fraction=fraction, lr=lr, seed=seed)
                run = {"network": network, "data": name, "mode": mode, "fraction": fraction}
                run |= {"lr": lr, "seed": seed, "steps": options.steps}
                _run(path, run, config, whole, options)


def _file(network: str, name: str, mode: str, fraction: float, lr: float, seed: int) -> str:
    return f"{network}-{name}-{mode}-{100 * fraction:g}percent-lr{lr:g}-seed{seed}.json"


def config_of(
    network: str, name: str, mode: str, *, fraction: float, lr: float, seed: int
) -> TrainConfig:
    """Return the configuration of a run, as a recipe for `mulfree train` would state it."""
    source = NETWORKS[network]
    pretrained = None if mode == "scratch" else str(source.weights())
    method: supervised.Config | finetune.Config = supervised.Config()
    if mode != "scratch":
        frozen = mode == "frozen"
        method = finetune.Config(freeze=frozen, freeze_batch_norm=frozen)
    return TrainConfig(
        model=NetworkConfig(
            name=network, operator="conv2d", options={**source.options}, pretrained=pretrained
        ),
        data=replace(data_of(source, name, BATCH), fraction=fraction, subset_seed=seed),
        method=method,
        optimizer=OptimizerConfig(name="adamw", lr=lr, weight_decay=1e-2, decay="no_bias_norm"),
        schedule=ScheduleConfig(name="cosine", warmup=0.1),
        trainer=TrainerConfig(epochs=1, seed=seed),
    )


def _run(
    path: Path,
    run: dict[str, Any],
    config: TrainConfig,
    whole: DataSplits,
    options: argparse.Namespace,
) -> None:
    started = time.perf_counter()
    splits = splits_of(whole, config.data, options.images)
    method = train_for(config, splits, options.steps)
    run |= {"training_images": len(splits.train), "evaluated_images": len(splits.test)}
    run |= accuracies(method.model, splits, config.data.eval_batch_size)
    record(path, run, config, started)


if __name__ == "__main__":
    main()
