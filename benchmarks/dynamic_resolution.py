"""Dynamic resolution against networks of one resolution: `python benchmarks/dynamic_resolution.py`.

Trains, with one schedule, the network at each resolution alone (`static`), the classifier at all
resolutions (`pretrain`), and from it a network of dynamic resolution for each target of the cost
(`dynamic`). The static networks have the epochs of both phases. A run that is there is not run
again, and one that was stopped goes on. The table is of the test images and the last epochs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mulfree import cost, models
from mulfree.cli.main import main as mulfree
from mulfree.errors import MulfreeError
from mulfree.scaling.runs import trained
from mulfree.training import read_config
from mulfree.training.run.report import METRICS_JSON


def main() -> None:
    """Train missing networks, and print a table of all finished ones."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--operator", default="conv2d")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[32, 24, 16])
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.75, 0.6])
    parser.add_argument("--eta", type=float, default=0.2)
    parser.add_argument("--epochs", type=int, nargs=2, default=[10, 10], metavar=("PRE", "FINE"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("options", nargs="*", help="options of `mulfree train`, after --")
    arguments = parser.parse_args()
    base = ["--data.name=cifar10", "--schedule.name=cosine", "--optimizer.lr=0.1"]
    base += arguments.options
    try:
        for seed in () if arguments.table else arguments.seeds:
            for name, words in runs(arguments, seed):
                config = read_config([*base, f"--trainer.seed={seed}", *words])
                print(arguments.output / name, flush=True)
                if trained(config, arguments.output / name) is None:
                    sys.exit(f"dynamic_resolution: {name} was stopped; run the same command")
    except MulfreeError as error:
        parser.error(str(error))
    print("\n".join(table(arguments)))


def runs(arguments: argparse.Namespace, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Folder and options of every run of a seed, in the order in which they need each other."""
    pre, fine = arguments.epochs
    largest = max(arguments.resolutions)
    operator = f"--model.operator={arguments.operator}"
    width = f"--model.options.width={arguments.width}"
    for side in arguments.resolutions:
        static = [f"--model.name={arguments.network}", f"--data.image_size={side}"]
        yield (
            f"static-{side}-seed{seed}",
            [*static, operator, width, f"--trainer.epochs={pre + fine}"],
        )
    dynamic = [
        *("--model.name=dynamic_resolution", f"--data.image_size={largest}", operator, width),
        f"--model.options.network={arguments.network}",
        f"--model.options.resolutions={arguments.resolutions}",
        "--method.name=dynamic_resolution",
    ]
    first = f"pretrain-seed{seed}"
    yield first, [*dynamic, "--method.phase=pretrain", f"--trainer.epochs={pre}"]
    for alpha in arguments.alphas:
        method = ["--method.phase=finetune", f"--method.eta={arguments.eta}"]
        start = f"--model.pretrained={arguments.output / first}"
        yield (
            f"dynamic-{alpha}-seed{seed}",
            [*dynamic, *method, f"--method.alpha={alpha}", start, f"--trainer.epochs={fine}"],
        )


def table(arguments: argparse.Namespace) -> Iterator[str]:
    """Lines of markdown: accuracy and mean operations of every finished run."""
    yield "| run | test accuracy | operations | of the largest | images at each resolution |"
    yield "|---|---:|---:|---:|---|"
    with_width: dict[str, Any] = {"operator": arguments.operator, "width": arguments.width}
    network = models.create_model(arguments.network, **with_width)
    counts = {
        side: cost.count(network, (3, side, side)).total.cost.total
        for side in arguments.resolutions
    }
    largest = max(counts.values())
    for seed in arguments.seeds:
        for name, _ in runs(arguments, seed):
            directory = arguments.output / name
            if not (directory / METRICS_JSON).exists():
                continue
            kind, side = name.split("-")[:2]
            shares = ""
            if kind == "static":
                found = json.loads((directory / METRICS_JSON).read_text())
                accuracy, operations = found["test_accuracy"], counts[int(side)]
            elif kind == "dynamic":
                found = evaluated(directory)
                accuracy, operations = found["accuracy"], found["mean_operations"]
                shares = ", ".join(f"{r['side']}: {r['images']}" for r in found["resolutions"])
            else:
                continue
            share = operations / largest
            yield f"| {name} | {accuracy:.2%} | {operations:,.0f} | {share:.1%} | {shares} |"


def evaluated(directory: Path) -> dict[str, Any]:
    """Result of `mulfree evaluate` on a run, kept beside it."""
    kept = directory / "evaluate.json"
    if not kept.exists():
        with contextlib.redirect_stdout(io.StringIO()) as out:
            picture = str(directory / "choices.png")
            if mulfree(["evaluate", str(directory), "--json", "--plot", picture]):
                sys.exit(f"dynamic_resolution: {directory} cannot be evaluated")
        kept.write_text(out.getvalue())
    values: dict[str, Any] = json.loads(kept.read_text())
    return values


if __name__ == "__main__":
    main()
