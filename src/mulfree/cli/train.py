"""`mulfree train`: train a network, or resume a run that was stopped."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from mulfree.cli.output import print_text
from mulfree.errors import TrainingError

if TYPE_CHECKING:
    from mulfree.tasks import Task
    from mulfree.training import Result

_INTERRUPTED = 130
_HELP = ("-h", "--help")
_PRINT = "--print_config"


def main(argv: list[str]) -> int:
    """Run the command."""
    # Imported late: torch takes a second, and `mulfree -h` does not need it.
    from mulfree import training
    from mulfree.tasks import get_task
    from mulfree.training.run.checkpoint import LAST, file_of
    from mulfree.training.run.command_line import help_parser, take_option
    from mulfree.training.run.devices import is_main_process

    resume, words = take_option(argv, "--resume")
    if any(word in _HELP for word in words):
        parser = help_parser([word for word in words if word not in _HELP])
        parser.add_argument(
            "--resume", metavar="RUN", help="go on with a run: its directory or a checkpoint"
        )
        parser.add_argument(
            _PRINT, action="store_true", help="print the whole configuration and do nothing else"
        )
        parser.print_help()
        return 0
    checkpoint = (
        training.load_checkpoint(file_of(os.path.expanduser(resume[-1]), LAST)) if resume else None
    )
    base = None if checkpoint is None else checkpoint.config
    config = training.read_config([word for word in words if word != _PRINT], base)
    if _PRINT in words:
        print(config.to_yaml(), end="")
        return 0
    try:
        result = training.train(config, checkpoint)
    except TrainingError:
        # Every process raises the same error, so one prints it.
        if is_main_process():
            raise
        return 0
    if not is_main_process():
        return 0
    if not result.finished:
        print_text(f"stopped after step {result.step}; everything up to it is saved. To go on:")
        print_text(f"  mulfree train --resume {shlex.quote(str(result.directory))}")
        return _INTERRUPTED
    _print_summary(result, get_task(config.task.name))
    return 0


def _print_summary(result: Result, task: Task) -> None:
    from mulfree.training.run.checkpoint import BEST, LAST, WEIGHTS
    from mulfree.training.run.report import CURVES, METRICS_CSV, METRICS_JSON
    from mulfree.training.run.results import companion_file

    metrics = result.metrics
    minutes, seconds = divmod(round(metrics["seconds"]), 60)
    print_text(
        f"\n{metrics['model']} with {metrics['operator']} on {metrics['data']}: "
        f"{task.report.summary(metrics)} after {metrics['epochs']} epochs "
        f"in {minutes} min {seconds} s"
    )
    for name in result.companions:
        print_text(task.report.comparison(metrics, name))
        print_text(f"  {result.directory / companion_file(name)}  the {name}")
    network, results, best = (result.directory / name for name in (WEIGHTS, METRICS_JSON, BEST))
    print_text(f"  {network}  the network")
    print_text(f"  {results}       results; {METRICS_CSV} by epoch, {CURVES}")
    print_text(f"  {best}          the best epoch; {LAST} the last")
    print_text(f"  mulfree evaluate {shlex.quote(str(network))}")
