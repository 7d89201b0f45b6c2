"""Compound scaling against one dimension at equal cost: `python benchmarks/compound_scaling.py`.

The network of a recipe is scaled to a multiple of its multiply-adds: in depth, width and resolution
together, and in each alone, as in Tables 3 and 7 of arXiv 1905.11946. The baseline and the four
networks are trained with convolutions and with adders, all with the same budget and seeds, and the
accuracy on the test images after the last epoch is reported: nothing is chosen by it. A run that is
there is not run again, and one that was stopped goes on, so the same command finishes what was
begun; other processes may take other seeds or operators in the same folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mulfree.errors import MulfreeError
from mulfree.files import write_atomically
from mulfree.models import ScaledModel, scale
from mulfree.models.scaling import ALPHA, BETA, GAMMA
from mulfree.operators import OPERATORS
from mulfree.scaling import Costs, costs_of, equal_cost
from mulfree.scaling.report import plot
from mulfree.scaling.runs import scaled_config, sized, trained
from mulfree.training import TrainConfig, read_config

SCHEMA = "mulfree.compound-scaling/1"
BASELINE = "baseline"
RESULTS, TABLE, PLOT = "results.json", "table.md", "accuracy.png"


def main() -> None:
    """Train missing networks, and write table, plot and results of all finished ones."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a recipe; its operator is replaced")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--multiple", type=float, default=4.0, help="of the multiply-adds")
    parser.add_argument(
        "--ratios", type=float, nargs=3, default=[ALPHA, BETA, GAMMA], help="alpha beta gamma"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=["conv2d", "adder2d"])
    parser.add_argument("options", nargs="*", help="options of `mulfree train`, after --")
    # Intermixed: the recipe may be apart from the words after --.
    arguments = parser.parse_intermixed_args()
    try:
        config = read_config(["--config", arguments.recipe, *arguments.options])
        _run(config, arguments)
    except MulfreeError as error:
        parser.error(str(error))


def _run(config: TrainConfig, arguments: argparse.Namespace) -> None:
    config, model_options, _ = sized(config)
    # Both operators train the same networks: multiply-adds are those of the convolutions.
    model_options.pop("operator")
    networks = _networks(config.model.name, model_options, arguments)
    costs = {
        operator: {
            scaling: costs_of(replace(scaled, options={**scaled.options, "operator": operator}))
            for scaling, scaled in networks.items()
        }
        for operator in arguments.operators
    }
    runs: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for scaling, scaled in networks.items():
            for operator in arguments.operators:
                directory = arguments.output / f"{scaling}-{operator}-seed{seed}"
                print(f"{directory}", flush=True)
                run = scaled_config(config, scaled)
                model = replace(run.model, operator=operator)
                trainer = replace(run.trainer, seed=seed)
                results = trained(replace(run, model=model, trainer=trainer), directory)
                if results is None:
                    sys.exit(f"compound_scaling: {directory} was stopped; run the same command")
                runs.append(
                    _row(scaling, operator, seed, scaled, costs[operator][scaling], results)
                )
                _write(arguments, config, runs)
    print((arguments.output / TABLE).read_text(), end="")


def _networks(
    name: str, options: Mapping[str, Any], arguments: argparse.Namespace
) -> dict[str, ScaledModel]:
    baseline = scale(name, 0, **options)
    target = arguments.multiple * costs_of(baseline).mul_add
    plans = equal_cost(name, "mul-add", target, tuple(arguments.ratios), **options)
    return {BASELINE: baseline, **{scaling: plan.scaled for scaling, plan in plans.items()}}


def _row(
    scaling: str,
    operator: str,
    seed: int,
    scaled: ScaledModel,
    costs: Costs,
    results: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "scaling": scaling,
        "operator": operator,
        "seed": seed,
        "depth": scaled.depth,
        "width": scaled.width,
        "image_size": scaled.image_size,
        **asdict(costs),
        "test_accuracy": results["test_accuracy"],
        "steps": results["steps"],
        "seconds": results["seconds"],
        "environment": results["environment"],
    }


def _write(
    arguments: argparse.Namespace, config: TrainConfig, runs: Sequence[Mapping[str, Any]]
) -> None:
    content = {
        "schema": SCHEMA,
        "multiple": arguments.multiple,
        "ratios": arguments.ratios,
        "config": config.to_dict(),
        "runs": list(runs),
    }
    output: Path = arguments.output
    write_atomically(output / RESULTS, json.dumps(content, indent=1).encode() + b"\n")
    write_atomically(output / TABLE, "".join(f"{line}\n" for line in table(runs)).encode())
    groups = _groups(runs)
    points = {
        operator: {
            scaling: (rows[0]["mul_add"], statistics.mean(row["test_accuracy"] for row in rows))
            for (scaling, its), rows in groups.items()
            if its == operator
        }
        for operator in dict.fromkeys(row["operator"] for row in runs)
    }
    plot(points, "multiply-adds of the network with convolutions", "test accuracy", output / PLOT)


def table(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: mean and standard deviation over seeds."""
    yield (
        "| operator | scaling | depth | width | resolution | parameters | multiply-adds | "
        "additions | energy, fp32 | test accuracy | seeds |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for (scaling, operator), rows in sorted(_groups(runs).items(), key=lambda group: group[0][1]):
        accuracies = [100 * row["test_accuracy"] for row in rows]
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(rows) > 1 else ""
        first = rows[0]
        yield (
            f"| {operator} | {scaling} | {first['depth']:.2f} | {first['width']:.2f} "
            f"| {first['image_size']} | {first['params']:,} | {first['mul_add'] / 1e6:.2f} M "
            f"| {first['additions'] / 1e6:.2f} M | {first['energy'] / 1e6:.2f} uJ "
            f"| {statistics.mean(accuracies):.2f} %{spread} | {len(rows)} |"
        )


def _groups(
    runs: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Runs of all seeds, by scaling and operator."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in runs:
        groups.setdefault((row["scaling"], row["operator"]), []).append(row)
    return groups


if __name__ == "__main__":
    main()
