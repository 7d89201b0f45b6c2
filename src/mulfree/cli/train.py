"""`mulfree train`: train a network, or go on with a run that was stopped."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mulfree.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from mulfree.training import Result

_INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """Runs the verb with the words after it."""
    words, resume = _split_resume(argv)

    # Torch takes a second to import, which `mulfree -h` has no need of.
    from mulfree import training
    from mulfree.training.config import build_parser
    from mulfree.training.runner import is_main_process

    if "-h" in words or "--help" in words:
        parser = build_parser()
        parser.add_argument(
            "--resume", metavar="RUN", help="go on with a run: its directory or a checkpoint"
        )
        parser.print_help()
        return 0
    checkpoint = None if resume is None else training.load_checkpoint(_checkpoint_of(resume))
    config = training.read_config(words, None if checkpoint is None else checkpoint.config)
    try:
        result = training.train(config, checkpoint)
    except TrainingError:
        # It is the same error in every process, so one of them tells.
        if is_main_process():
            raise
        return 0
    if not is_main_process():
        return 0
    if not result.finished:
        print(f"stopped after step {result.step}; everything up to it is saved. To go on:")
        print(f"  mulfree train --resume {shlex.quote(str(result.directory))}")
        return _INTERRUPTED
    _print_summary(result)
    return 0


def _split_resume(argv: list[str]) -> tuple[list[str], str | None]:
    """The words without `--resume PATH`, and its PATH."""
    words: list[str] = []
    resume = None
    remaining = iter(argv)
    for word in remaining:
        name, equals, value = word.partition("=")
        if name != "--resume":
            words.append(word)
            continue
        resume = value if equals else next(remaining, None)
        if not resume:
            raise ConfigError("train: `--resume` must be followed by a run or a checkpoint")
    return words, resume


def _checkpoint_of(resume: str) -> Path:
    path = Path(resume)
    return path / "last.ckpt" if path.is_dir() else path


def _print_summary(result: Result) -> None:
    metrics = result.metrics
    minutes, seconds = divmod(round(metrics["seconds"]), 60)
    print(
        f"\n{metrics['model']} with {metrics['operator']} on {metrics['data']}: "
        f"{metrics['test_accuracy']:.2%} of the test images are right "
        f"(loss {metrics['test_loss']:.4f}) after {metrics['epochs']} epochs "
        f"in {minutes} min {seconds} s"
    )
    print(f"  {result.directory}/model.safetensors  the network")
    print(f"  {result.directory}/metrics.json       results; metrics.csv by epoch, curves.png")
    print(f"  {result.directory}/best.ckpt          the best epoch; last.ckpt the last")
    print(f"  mulfree evaluate {shlex.quote(str(result.directory / 'model.safetensors'))}")
