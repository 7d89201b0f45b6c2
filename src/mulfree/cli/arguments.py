"""Parsing of command lines, with mistakes reported as one line."""

from __future__ import annotations

import argparse
import difflib
import itertools
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mulfree._native import MAX_THREADS
from mulfree.errors import ConfigError, quoted
from mulfree.files import expanded

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_NUMBER = re.compile(r"[-+]?[0-9]{1,100}")
_MAX_NUMBER = 2**31 - 1


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that takes no abbreviations and raises `ConfigError` on a mistake."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_args(self, args: list[str]) -> argparse.Namespace:  # type: ignore[override]
        """Parse `args`; the message about an unknown option names the nearest one.

        Raises:
            ConfigError: The command line is not valid.
        """
        options = [option for action in self._actions for option in action.option_strings]
        # Before argparse, which would report the value of a mistyped option instead.
        for word in itertools.takewhile(lambda word: word != "--", args):
            name = word.partition("=")[0]
            if word.startswith("--") and name not in options:
                near = difflib.get_close_matches(name, options, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigError(f"unknown option {name}{hint}")
        return super().parse_args(args)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # Argparse would hide an error of writing help or version.
        print(message, end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Raise `message`.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(message)


def positive(text: str, most: int = _MAX_NUMBER) -> int:
    """A whole number of at least 1."""
    number = int(text) if _NUMBER.fullmatch(text.strip()) else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {quoted(text)}")
    if number > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, got {quoted(text)}")
    return number


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {quoted(text)}")
    return number


def threads(text: str) -> int:
    """A number of threads."""
    return positive(text, MAX_THREADS)


def thread_counts(text: str) -> tuple[int, ...]:
    """Numbers of threads separated by commas."""
    return tuple(threads(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(text.split(","))


def file_path(text: str) -> Path:
    """A path, with the home directory in the place of `~` at its beginning."""
    try:
        return Path(expanded(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a path, got {quoted(text)}") from None


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, such as 3,32,32."""
    return tuple(positive(part) for part in text.split(","))
