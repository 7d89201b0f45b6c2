"""Depth-dynamic networks against their sub-nets alone: `python benchmarks/depth_dynamic.py`.

    python benchmarks/depth_dynamic.py recipes/cifar10/ddnn_resnet20_32_56_conv2d_15ep.yaml \
        --output DIR --seeds 0 1 -- --data.root cifar10

Trains the network of a recipe of method `embedded_kd` in several variants, and each of its networks
alone, all with the same budget and seed. Accuracies are those after the last epoch: of the held-out
training images where `data.validation` holds out some, on which variants may be compared to choose
one, else of the test images. A run that is there is not run again, and one that was stopped goes
on.

    ekd       as in the recipe
    unlabelled
              the same without cross entropy of the sub-nets
    joint     cross entropy of all networks, without distillation
    extremes  the shallowest and the full network in each step, with the losses and batch norms of
              ADN (arXiv 2312.16392)
    shared    one batch norm for all sub-nets
    stage     batch norms as in ADN
    spread    kept blocks spread over each stage
    alone     each network by itself
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mulfree import models
from mulfree.environment import environment
from mulfree.errors import ConfigError, MulfreeError
from mulfree.figures import panels, save
from mulfree.files import write_atomically
from mulfree.scaling.runs import trained
from mulfree.training import NetworkConfig, TrainConfig, read_config
from mulfree.training.methods import embedded_kd, supervised

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS, TABLE, PLOT = "results.json", "table.md", "accuracy.png"
ALONE = "alone"
METHOD: dict[str, dict[str, Any]] = {
    "unlabelled": {"subnet_weight": 0.0},
    "joint": {"kl_weight": 0.0, "attention_weight": 0.0, "subnet_weight": 1.0},
    "extremes": {
        "schedule": "extremes",
        "kl_weight": 1.0,
        "temperature": 1.0,
        "attention_weight": 0.0,
        "subnet_weight": 0.0,
    },
}
"""Options of the method in which a variant differs from the recipe."""
NETWORK: dict[str, dict[str, Any]] = {
    "extremes": {"batch_norm": "stage"},
    "shared": {"batch_norm": "shared"},
    "stage": {"batch_norm": "stage"},
    "spread": {"kept_blocks": "spread"},
}
"""Options of the network in which a variant differs from the recipe."""
IMAGES = {"test": "test images", "validation": "held-out training images"}
"""Images of the accuracies, by the split of the data."""
VARIANTS = ("ekd", "joint", "extremes", ALONE)
OTHERS = ("unlabelled", "shared", "stage", "spread")


def main() -> None:
    """Train what is missing, and write table, plot and results."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a recipe of a depth-dynamic network")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS + OTHERS, default=VARIANTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("options", nargs="*", help="options of `mulfree train`, after --")
    # Intermixed: the recipe may be apart from the words after --.
    arguments = parser.parse_intermixed_args()
    try:
        config = read_config(["--config", arguments.recipe, *arguments.options])
        depths = depths_of(config)
        rows = [
            row
            for seed in arguments.seeds
            for variant in arguments.variants
            for row in _rows(config, variant, seed, depths, arguments.output)
        ]
        _write(arguments.output, config, rows)
    except MulfreeError as error:
        parser.error(str(error))


def depths_of(config: TrainConfig) -> dict[str, NetworkConfig]:
    """Return the networks inside the network of a recipe, from the shallowest, as networks alone.

    Raises:
        ConfigError: The recipe has another method.
    """
    if not isinstance(config.method, embedded_kd.Config):
        raise ConfigError(
            f"benchmarks.depth_dynamic: `recipe` must be of method embedded_kd, "
            f"got {config.method.name}"
        )
    own = config.model
    with torch.device("meta"):
        model = models.create_model(own.name, operator=own.operator, **dict[str, Any](own.options))
        assert isinstance(model, models.DepthDynamicNetwork)
        inside = {depth: models.config_of(model.extract(depth)) for depth in model.depths}
    left_to_data = {"operator", "num_classes", "in_channels"}
    return {
        depth: NetworkConfig(
            name=found.name,
            operator=own.operator,
            options={k: v for k, v in found.arguments.items() if k not in left_to_data},
        )
        for depth, found in inside.items()
    }


def split_of(config: TrainConfig) -> str:
    """Return the split that accuracies are of: held-out training images where there are any."""
    return "validation" if config.data.validation else "test"


def variant_of(config: TrainConfig, variant: str) -> TrainConfig:
    """Return the run of a variant of the depth-dynamic network."""
    assert isinstance(config.method, embedded_kd.Config)
    options = {**config.model.options, **NETWORK.get(variant, {})}
    return replace(
        config,
        model=replace(config.model, options=options),
        method=replace(config.method, **METHOD.get(variant, {})),
    )


def _rows(
    config: TrainConfig,
    variant: str,
    seed: int,
    depths: Mapping[str, NetworkConfig],
    output: Path,
) -> Iterator[dict[str, Any]]:
    """Yield one row for each network of a variant."""
    config = replace(config, trainer=replace(config.trainer, seed=seed))
    assert isinstance(config.method, embedded_kd.Config)
    operator, full, split = config.model.operator, list(depths)[-1], split_of(config)
    runs = {variant: variant_of(config, variant)}
    if variant == ALONE:
        method = supervised.Config(label_smoothing=config.method.label_smoothing)
        runs = {
            depth: replace(config, model=network, method=method)
            for depth, network in depths.items()
        }
    for name, run in runs.items():
        directory = output / f"{operator}-{variant}-{name}-seed{seed}"
        print(directory, flush=True)
        metrics = trained(run, directory)
        if metrics is None:
            sys.exit(f"depth_dynamic: {directory} was stopped; run the same command")
        for depth in (name,) if variant == ALONE else depths:
            whole = variant == ALONE or depth == full
            yield {
                "operator": operator,
                "variant": variant,
                "network": depth,
                "seed": seed,
                "accuracy": metrics[f"{split}_{'' if whole else f'{depth}_'}accuracy"],
                # Of the run, which trains all networks of a variant at once.
                "seconds": metrics["seconds"],
            }


def _write(output: Path, config: TrainConfig, rows: Sequence[Mapping[str, Any]]) -> None:
    split = split_of(config)
    content = {
        "config": config.to_dict(),
        "split": split,
        "rows": list(rows),
        "environment": environment(),
    }
    write_atomically(output / RESULTS, json.dumps(content, indent=1).encode() + b"\n")
    text = "".join(f"{line}\n" for line in table(rows, split))
    write_atomically(output / TABLE, text.encode())
    print(text, end="")
    save(_plot(rows, split), output / PLOT)


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Accuracies of all seeds by variant and network."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        by_network = found.setdefault(row["variant"], {})
        by_network.setdefault(row["network"], []).append(row["accuracy"])
    return found


def table(rows: Sequence[Mapping[str, Any]], split: str) -> Iterator[str]:
    """Lines of Markdown: means over the seeds, differences from the networks alone, and costs."""
    yield f"Accuracy on the {IMAGES[split]}, in parentheses less that of the network alone:"
    yield ""
    found = _means(rows)
    alone = found.get(ALONE, {})
    networks = list(dict.fromkeys(row["network"] for row in rows))
    yield f"| variant | {' | '.join(networks)} | seeds | minutes a seed |"
    yield "|---|" + "---|" * (len(networks) + 2)
    for variant, by_network in found.items():
        cells = []
        for name in networks:
            mean = statistics.mean(by_network[name])
            cells.append(f"{mean:.2%}")
            if variant != ALONE and name in alone:
                cells[-1] += f" ({100 * (mean - statistics.mean(alone[name])):+.2f})"
        own = [row for row in rows if row["variant"] == variant]
        seeds = {row["seed"] for row in own}
        runs = {(row["seed"], row["network"] if variant == ALONE else ""): row for row in own}
        minutes = sum(row["seconds"] for row in runs.values()) / 60 / len(seeds)
        yield f"| {variant} | {' | '.join(cells)} | {len(seeds)} | {minutes:.1f} |"


def _plot(rows: Sequence[Mapping[str, Any]], split: str) -> Figure:
    figure, ((axes,),) = panels(1, 1, 6.0, 4.0)
    for variant, by_network in _means(rows).items():
        names = list(by_network)
        means = [100 * statistics.mean(values) for values in by_network.values()]
        style = "k--" if variant == ALONE else "-"
        axes.plot(names, means, style, marker=".", label=variant)
    axes.set_ylabel(f"accuracy on the {IMAGES[split]} in %")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
