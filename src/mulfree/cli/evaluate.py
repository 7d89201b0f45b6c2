"""`mulfree evaluate`: metrics of the network of a checkpoint on images."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from mulfree.cli.arguments import Parser, file_path, not_negative, threads
from mulfree.cli.network import add_data_options, load_splits, load_trained
from mulfree.cli.output import print_text
from mulfree.cli.progress import with_progress
from mulfree.errors import ConfigError, printable
from mulfree.files import check_writable

if TYPE_CHECKING:
    from mulfree.cli.kinds.kind import Kind
    from mulfree.data import DataConfig, DataSplits
    from mulfree.training import Evaluation

_SPLITS = ("test", "train", "validation")


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)

    # Imported late: torch takes a second, and `mulfree -h` does not need it.
    import torch

    from mulfree import training
    from mulfree.cli.kinds import find_kind
    from mulfree.cli.kinds.kind import Job
    from mulfree.training.run.checkpoint import load_compatible

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    trained = load_trained("evaluate", arguments.checkpoint, arguments.data_name)
    kind = find_kind(trained.model)
    _check_plot(arguments, kind)
    config, splits = load_splits("evaluate", trained, arguments)
    if getattr(splits, arguments.split) is None:
        raise ConfigError(
            f"evaluate: `--split` must be test or train, got {arguments.split}, of which "
            f"{config.name} has nothing held out"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = None
    if arguments.teacher is not None:
        teacher = load_compatible("evaluate: `--teacher`", arguments.teacher, trained.model)
        teacher.to(device)
    model = trained.model.to(device)
    job = Job(model=model, words=arguments, config=config, splits=splits, device=device)
    loader = with_progress(job.loader(arguments.split), "evaluating")
    result = training.evaluate(model, loader, teacher)
    if not arguments.json:
        _print_result(arguments, splits, result)
    more = kind.evaluate(job)
    if arguments.json:
        values = _to_json(arguments, config, splits, result) | dict(more.values)
        print(json.dumps(values, indent=2))
    elif more.text:
        print_text(more.text)
    return 0


def _check_plot(arguments: Namespace, kind: Kind) -> None:
    """Refuse options that a kind of networks lacks, and a plot that cannot be written.

    Raises:
        ConfigError: An option must be left out, or the plot is no PNG.
    """
    if arguments.static and not kind.has_exits:
        raise ConfigError(
            "evaluate: `--static` must be left out for a network without exits, "
            f"got {arguments.static[0]}"
        )
    if arguments.plot is None:
        return
    if not kind.has_plot:
        raise ConfigError(
            "evaluate: `--plot` must be left out for a network without exits and resolutions, "
            f"got {arguments.plot}"
        )
    if arguments.plot.suffix.lower() != ".png":
        raise ConfigError(f"evaluate: `--plot` must end in .png, got {arguments.plot}")
    check_writable(arguments.plot)


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
