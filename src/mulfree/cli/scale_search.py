"""`mulfree scale search`: search the ratios of compound scaling by short trainings."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace
from typing import Any

from mulfree.cli.arguments import Parser, file_path, positive
from mulfree.cli.output import print_text
from mulfree.cli.progress import progress
from mulfree.cli.scale import dotted
from mulfree.scaling.ratios import CONSTRAINTS, Constraint
from mulfree.scaling.report import search_table
from mulfree.scaling.search import PLOT, RESULTS, SAMPLERS, Search, SearchConfig
from mulfree.training import read_config
from mulfree.training.methods import DEFAULT
from mulfree.training.run.config import sections

_INTERRUPTED = 130
_EPILOG = """\
Every candidate is the network of the recipe with its depth, width and images scaled at phi = 1, and
is trained with the recipe's optimiser, schedule and seed for the budget. Candidates are compared on
held-out training images (--data.validation), never on the test images. All options of
`mulfree train` are accepted.

The grid holds the ratios whose growth is within the tolerance: alpha * beta^2 * gamma^2, or the
growth of a counted cost. TPE samples this surface. The same command goes on with a search that was
stopped; started several times, also on other machines that share the files, the candidates are
divided among the processes.

  mulfree scale search --config recipes/cifar10/resnet20_conv2d_15ep.yaml --data.validation 0.1 \\
    --epochs 3 --output runs/search"""


def main(argv: list[str]) -> int:
    """Run the command."""
    words, rest = dotted(argv, tuple(sections(DEFAULT)))
    own = SearchConfig()
    parser = Parser("mulfree scale search", "Search alpha, beta and gamma.", _EPILOG)
    parser.add_argument("--config", metavar="FILE.yaml", help="recipe of every candidate")
    parser.add_argument("--SECTION.OPTION", metavar="VALUE", help="as for `mulfree train`")
    parser.add_argument("--output", type=file_path, required=True, help="directory of the search")
    parser.add_argument(
        "--storage",
        metavar="sqlite:///FILE|FILE",
        help="study of Optuna, as SQLite or journal (default: a journal in --output)",
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="budget (default: recipe's)")
    parser.add_argument("--sampler", choices=SAMPLERS, default=own.sampler, help="default: grid")
    parser.add_argument("--step", type=float, default=own.step, help="of the grid (default: 0.1)")
    parser.add_argument("--trials", type=positive, default=own.trials, help="of tpe (default: 20)")
    kind = own.constraint.kind
    parser.add_argument("--constraint", choices=CONSTRAINTS, default=kind, help="default: product")
    for name in ("growth", "tolerance"):
        value = getattr(own.constraint, name)
        parser.add_argument(f"--{name}", type=float, default=value, help=f"default: {value:g}")
    arguments = parser.parse_args(rest)
    config = read_config(words)
    trainer = replace(config.trainer, progress="none")
    if arguments.epochs is not None:
        trainer = replace(trainer, epochs=arguments.epochs)
    settings = SearchConfig(
        constraint=Constraint(
            kind=arguments.constraint, growth=arguments.growth, tolerance=arguments.tolerance
        ),
        sampler=arguments.sampler,
        step=arguments.step,
        trials=arguments.trials,
    )
    search = Search(replace(config, trainer=trainer), settings, arguments.output, arguments.storage)
    with progress(search.candidates()) as advance:
        finished = search.run(advance)
    if not finished:
        print_text("stopped; everything up to here is saved. To go on:")
        print_text(f"  mulfree scale search {shlex.join(argv)}")
        return _INTERRUPTED
    _print(search)
    return 0


def _print(search: Search) -> None:
    content: dict[str, Any] = search.results()
    operator = content["config"]["model"]["operator"]
    title = f"{search.name} {operator}, trained for {content['config']['trainer']['epochs']} epochs"
    print_text(search_table(title, content).rstrip("\n"))
    states = Counter(row["state"] for row in content["trials"])
    others = ", ".join(f"{number} {state}" for state, number in states.items())
    print_text(f"trials: {others.lower() or 'none'}")
    print_text(f"  {search.output / RESULTS}  results; {PLOT}")
