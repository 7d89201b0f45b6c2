"""`mulfree evaluate`: metrics of the network of a checkpoint on images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mulfree.cli.arguments import Parser, file_path, not_negative, threads
from mulfree.cli.evaluate_exits import evaluate_exits
from mulfree.cli.network import add_data_options, load_splits, load_trained
from mulfree.cli.output import print_text
from mulfree.cli.progress import with_progress
from mulfree.cli.resolutions import (
    find_resolutions,
    resolutions_to_json,
    resolutions_to_text,
)
from mulfree.errors import ConfigError, printable
from mulfree.files import check_writable

if TYPE_CHECKING:
    from mulfree.data import BatchLoader, DataConfig, DataSplits
    from mulfree.training import Evaluation

_SPLITS = ("test", "train", "validation")


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)

    # Imported late: torch takes a second, and `mulfree -h` does not need it.
    import torch

    from mulfree import models, training
    from mulfree.models.dynamic_resolution import DynamicResolutionNetwork
    from mulfree.models.early_exit import EarlyExitNetwork
    from mulfree.training.run.checkpoint import load_compatible

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    trained = load_trained("evaluate", arguments.checkpoint, arguments.data_name)
    if arguments.static and not isinstance(trained.model, EarlyExitNetwork):
        raise ConfigError(
            "evaluate: `--static` must be left out for a network without exits, "
            f"got {arguments.static[0]}"
        )
    if arguments.plot is not None:
        if not isinstance(trained.model, EarlyExitNetwork | DynamicResolutionNetwork):
            raise ConfigError(
                "evaluate: `--plot` must be left out for a network without exits and resolutions, "
                f"got {arguments.plot}"
            )
        if arguments.plot.suffix.lower() != ".png":
            raise ConfigError(f"evaluate: `--plot` must end in .png, got {arguments.plot}")
        check_writable(arguments.plot)
    config, splits = load_splits("evaluate", trained, arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = _loader(splits, config, arguments.split, device)
    teacher = None
    if arguments.teacher is not None:
        teacher = load_compatible("evaluate: `--teacher`", arguments.teacher, trained.model)
        teacher.to(device)
    model = trained.model.to(device)
    result = training.evaluate(model, with_progress(loader, "evaluating"), teacher)
    depths = {
        name: training.evaluate(subnet, with_progress(loader, name))
        for name, subnet in models.shallower(model).items()
    }
    if not arguments.json:
        _print_result(arguments, splits, result)
        for name, subnet in depths.items():
            print_text(
                f"  {printable(name)}: accuracy {subnet.accuracy:.2%}  loss {subnet.loss:.4f}"
            )
    more = _depths_to_json(depths)
    if isinstance(model, EarlyExitNetwork):
        load = partial(_loader, splits, config, device=device)
        more |= evaluate_exits(model, arguments, splits, load)
    elif isinstance(model, DynamicResolutionNetwork):
        chosen = find_resolutions(arguments.plot, model, loader, splits)
        more |= resolutions_to_json(chosen)
        if not arguments.json:
            print_text(resolutions_to_text(chosen))
    if arguments.json:
        print(json.dumps(_to_json(arguments, config, splits, result) | more, indent=2))
    return 0


def _parser() -> Parser:
    parser = Parser(
        "mulfree evaluate",
        "Accuracy and loss of the network of a checkpoint on the data it was trained for.",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=file_path,
        help="a .ckpt or .safetensors file, or a run's directory",
    )
    parser.add_argument("--split", choices=_SPLITS, default="test", help="which images")
    parser.add_argument(
        "--teacher",
        metavar="CHECKPOINT",
        type=file_path,
        help="network to compare it with: how often both predict the same class (agreement), and "
        "the mean divergence KL(teacher || network) of their probabilities",
    )
    parser.add_argument("--per-class", action="store_true", help="accuracy of every class, too")
    exits = parser.add_argument_group("networks of several costs")
    exits.add_argument(
        "--points-lost",
        type=not_negative,
        default=0.5,
        metavar="P",
        help="accuracy in points that the threshold may cost on the held-out training images that "
        "it is chosen on (default: 0.5)",
    )
    exits.add_argument(
        "--plot",
        type=file_path,
        metavar="FILE",
        help="PNG of accuracy against cost; of a network of dynamic resolution the chosen "
        "resolutions, and the easiest and hardest images",
    )
    exits.add_argument(
        "--static",
        nargs="+",
        type=file_path,
        default=[],
        metavar="CHECKPOINT",
        help="networks without exits in that plot",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--threads", type=threads, help="CPU threads")
    add_data_options(parser)
    return parser


def _loader(splits: DataSplits, config: DataConfig, split: str, device: str) -> BatchLoader:
    from mulfree import data

    images = getattr(splits, split)
    if images is None:
        raise ConfigError(
            f"evaluate: `--split` must be test or train, got validation, of which {config.name} "
            "has nothing held out"
        )
    return data.BatchLoader(
        images,
        config.eval_batch_size,
        train=False,
        transform=splits.test_transform,
        device=device,
    )


def _to_json(
    arguments: Any, config: DataConfig, splits: DataSplits, result: Evaluation
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "checkpoint": str(arguments.checkpoint),
        "data": config.name,
        "split": arguments.split,
        "images": result.images,
        "accuracy": result.accuracy,
        # JSON has neither infinities nor NaN.
        "loss": result.loss if math.isfinite(result.loss) else None,
    }
    if result.fidelity is not None:
        compared = result.values("teacher")
        values |= {"teacher": str(arguments.teacher)}
        values |= {key: compared[key] for key in compared if key not in values}
        values["kl"] = values["kl"] if math.isfinite(values["kl"]) else None
    if arguments.per_class:
        values["per_class"] = {
            name: None if math.isnan(accuracy) else accuracy
            for name, accuracy in zip(splits.classes, result.per_class, strict=True)
        }
    return values


def _depths_to_json(depths: Mapping[str, Evaluation]) -> dict[str, Any]:
    if not depths:
        return {}
    return {
        "subnets": {
            name: {
                "accuracy": result.accuracy,
                "loss": result.loss if math.isfinite(result.loss) else None,
            }
            for name, result in depths.items()
        }
    }


def _print_result(arguments: Any, splits: DataSplits, result: Evaluation) -> None:
    print_text(
        f"accuracy {result.accuracy:.2%}  loss {result.loss:.4f}  "
        f"({result.images} {arguments.split} images)"
    )
    if (fidelity := result.fidelity) is not None:
        print_text(
            f"teacher  {fidelity.reference_accuracy:.2%}  agreement {fidelity.agreement:.2%}  "
            f"KL {fidelity.kl:.4f}"
        )
    if arguments.per_class:
        names = [printable(name) for name in splits.classes]
        width = max(map(len, names))
        for name, accuracy in zip(names, result.per_class, strict=True):
            share = "no image" if math.isnan(accuracy) else f"{accuracy:.2%}"
            print_text(f"  {name.ljust(width)}  {share}")
