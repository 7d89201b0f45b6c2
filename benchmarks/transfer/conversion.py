"""A fine-tuned network whose convolutions become adders part by part, distilled from it.

    MULFREE_DATA=... python -m benchmarks.transfer.conversion --output DIR

The network is fine-tuned first and is then the teacher. Its parts, blocks or stages (the layers
with maps of one size), are converted from the head to the input. Each network starts from the one
before: new adder layers and their batch norms are initialised, everything else is kept. A batch
norm that was trained behind a convolution shifts the outputs of an adder layer, which are large and
correlated, out of the range of ReLU6: the network would be constant. The first convolution and the
classifier multiply. A finished part is not trained again, so the same command finishes what was
begun.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.transfer.__main__ import MODES, config_of
from benchmarks.transfer.budget import accuracies, read, record, train_for
from benchmarks.transfer.options import make_parser, parse
from benchmarks.transfer.sources import DATA, NETWORKS, load, splits_of
from torch import nn

from mulfree import models
from mulfree.data import DataSplits
from mulfree.files import write_atomically
from mulfree.models.staged import StagedNetwork
from mulfree.training import NetworkConfig, TrainConfig
from mulfree.training.methods import kd, pkkd
from mulfree.training.stages import stages_of

TABLE = "conversion.md"
TEACHER = "teacher"
# Fixed in advance: the probabilities of the teacher weigh most, as the labels of few steps are few.
DISTILLATION: dict[str, Any] = {"alpha": 0.9, "loss_weighting": "convex", "temperature": 4.0}
LR = 2e-3
# Of 1 and 20, better on held-out training images after 60 steps with the head alone converted.
ADDER_LR = 20.0
UNITS = ("block", "stage")
HEAD = "head"


def main() -> None:
    """Train what is missing, and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="efficientnet_lite0")
    parser.add_argument("--data", choices=DATA, default="cifar10")
    parser.add_argument("--methods", nargs="+", choices=("kd", "pkkd"), default=["kd", "pkkd"])
    parser.add_argument("--unit", choices=UNITS, default="block", help="converted at once")
    parser.add_argument("--parts", type=int, help="number of parts that are converted; all")
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser)
    if not options.table:
        _train(options)
    table = "\n".join(_table(read(options.output, "*.json"))) + "\n"
    write_atomically(options.output / TABLE, table.encode())
    print(table)


def _train(options: argparse.Namespace) -> None:
    whole = cache(load)
    mode, seed = "finetune", options.seed
    base = config_of(options.network, options.data, mode, fraction=1.0, lr=MODES[mode], seed=seed)
    _run(TEACHER, [], base, options, whole)
    for method in options.methods:
        before, converted = TEACHER, list[str]()
        parts = parts_of(options.network, options.unit)
        for part in list(dict.fromkeys(reversed(parts.values())))[: options.parts]:
            converted = [*converted, part]
            name = f"{method}-{len(converted)}"
            config = part_config(base, method, parts, converted, options.output, before)
            _run(name, converted, config, options, whole)
            before = name


def part_config(
    base: TrainConfig,
    method: str,
    parts: Mapping[str, str],
    converted: Sequence[str],
    output: Path,
    before: str,
) -> TrainConfig:
    """Return the configuration of a network with adders in some parts.

    Args:
        base: Configuration of the teacher.
        method: kd or pkkd.
        parts: Part of each convolution.
        converted: Parts of adders, the newest last.
        output: Folder of the weights.
        before: Name of the network to start from.
    """
    kept = [layer for layer, part in parts.items() if part not in converted]
    new = [layer for layer, part in parts.items() if part == converted[-1]]
    norms = batch_norms(base.model.name)
    new += [norms[layer] for layer in new]
    teacher = str(output / f"{TEACHER}.safetensors")
    kind = kd.Config if method == "kd" else pkkd.Config
    return replace(
        base,
        model=NetworkConfig(
            name=base.model.name,
            operator="adder2d",
            options={**base.model.options, "norm_logits": False, "keep": ["first", "last", *kept]},
            pretrained=str(output / f"{before}.safetensors"),
            pretrained_exclude=tuple(new),
        ),
        method=kind(teacher=teacher, **DISTILLATION),
        optimizer=replace(base.optimizer, lr=LR, adder_lr=ADDER_LR),
    )


@cache
def batch_norms(network: str) -> dict[str, str]:
    """Return the batch norm that is registered after each convolution."""
    found, layers = dict[str, str](), list[str]()
    for name, module in models.create_model(network).named_modules():
        if isinstance(module, nn.Conv2d):
            layers.append(name)
        elif isinstance(module, nn.BatchNorm2d):
            found |= dict.fromkeys(layers, name)
            layers.clear()
    return found


@cache
def parts_of(network: str, unit: str) -> dict[str, str]:
    """Return the part of each convolution between the first one and the classifier."""
    model = models.create_model(network)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if unit == "stage":
        stages = stages_of(model)
        return {name: stages[f"{name}.weight"] for name in names[1:-1]}
    assert isinstance(model, StagedNetwork)
    blocks = [block for stage in model.stage_blocks() for block in stage]
    return {
        name: next((block for block in blocks if name.startswith(f"{block}.")), HEAD)
        for name in names[1:-1]
    }


def _run(
    name: str,
    converted: Sequence[str],
    config: TrainConfig,
    options: argparse.Namespace,
    whole: Any,
) -> None:
    path = options.output / f"{name}.json"
    if path.exists():
        return
    started = time.perf_counter()
    data: DataSplits = whole(options.data)
    splits = splits_of(data, config.data, options.images)
    method = train_for(config, splits, options.steps)
    models.save_weights(method.model, path.with_suffix(".safetensors"))
    run = {"network": options.network, "data": options.data, "method": name.partition("-")[0]}
    run |= {"converted": list(converted), "unit": options.unit}
    run |= {"steps": options.steps, "seed": options.seed}
    run |= {"evaluated_images": len(splits.test)}
    run |= accuracies(method.model, splits, config.data.eval_batch_size)
    record(path, run, config, started)


def _table(runs: list[dict[str, Any]]) -> Iterator[str]:
    yield "| method | last converted | adder layers | validation | test | lost |"
    yield "|---|---|---|---|---|---|"
    teacher = next((run for run in runs if run["method"] == TEACHER), None)
    for run in sorted(
        runs, key=lambda run: (run["method"] != TEACHER, run["method"], len(run["converted"]))
    ):
        parts = parts_of(run["network"], run["unit"]).values()
        adders = sum(part in run["converted"] for part in parts)
        newest = run["converted"][-1] if run["converted"] else ""
        cells = [run["method"], newest, f"{adders} of {len(parts)}"]
        cells += [f"{100 * run[f'{part}_accuracy']:.2f} %" for part in ("validation", "test")]
        lost = "" if teacher is None else teacher["test_accuracy"] - run["test_accuracy"]
        cells += [f"{100 * lost:.2f}" if isinstance(lost, float) else ""]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
