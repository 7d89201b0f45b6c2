from __future__ import annotations

import argparse

import pytest

from mulfree.cli.arguments import Parser, positive, sizes
from mulfree.errors import ConfigError


def parser() -> Parser:
    made = Parser("mulfree verb", "What it does.")
    made.add_argument("--number", type=positive)
    made.add_argument("--size", type=sizes)
    return made


def test_values() -> None:
    options = parser().parse_args(["--number", "3", "--size", "3,32,32"])
    assert (options.number, options.size) == (3, (3, 32, 32))


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", ""])
def test_a_number_that_is_not_positive(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a whole number >= 1, got"):
        positive(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--number", "0"], r"^argument --number: must be a whole number >= 1, got '0'$"),
        (["--size", "3,x"], r"^argument --size: must be a whole number >= 1, got 'x'$"),
        (["--number"], r"^argument --number: expected one argument$"),
        (["--num", "3"], r"^unknown option --num; did you mean --number\?$"),
        (["--zzz=3"], r"^unknown option --zzz$"),
        (["3"], r"^unrecognized arguments: 3$"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parser().parse_args(words)
