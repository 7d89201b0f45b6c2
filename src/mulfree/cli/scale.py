"""`mulfree scale`: networks of a target cost, and the search of the ratios of compound scaling."""

from __future__ import annotations

import importlib
import sys

from mulfree.cli.arguments import Parser
from mulfree.errors import ConfigError, choices_message

USAGE_ERROR = 2
COMMANDS = {
    "plan": "scale a network to multiply-adds, additions, energy or latency",
    "search": "search the ratios of depth, width and resolution, each candidate trained shortly",
}


def main(argv: list[str]) -> int:
    """Run the command."""
    if argv and not argv[0].startswith("-"):
        command, *words = argv
        if command not in COMMANDS:
            raise ConfigError(choices_message("scale", "command", command, COMMANDS))
        status = importlib.import_module(f"mulfree.cli.scale_{command}").main(words)
        assert isinstance(status, int)
        return status
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name.ljust(width)}  {text}" for name, text in COMMANDS.items())
    parser = Parser(
        "mulfree scale",
        "Compound scaling (arXiv 1905.11946) of registered networks.",
        f"commands:\n{commands}\n\n`mulfree scale COMMAND -h` explains a command.",
    )
    parser.usage = "mulfree scale [-h] COMMAND ..."
    parser.parse_args(argv)
    parser.print_help(sys.stderr)
    return USAGE_ERROR


def dotted(argv: list[str], sections: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Split words into options of a training configuration and all others.

    Args:
        argv: Words of a command line.
        sections: Sections of the configuration whose options are taken; `--config` always is.

    Returns:
        Words for `training.read_config`, and the other words.
    """
    taken: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name = word.partition("=")[0]
        if name == "--config" or name.startswith(tuple(f"--{section}." for section in sections)):
            taken.append(word)
            value = None if "=" in word else next(words, None)
            taken += [] if value is None else [value]
        else:
            rest.append(word)
    return taken, rest
