from __future__ import annotations

import argparse

import pytest

from mulfree.cli.arguments import Parser, file_path, positive, sizes, threads
from mulfree.errors import ConfigError


def parser() -> Parser:
    made = Parser("mulfree verb", "What it does.")
    made.add_argument("--number", type=positive)
    made.add_argument("--size", type=sizes)
    return made


def test_values() -> None:
    options = parser().parse_args(["--number", "3", "--size", "3,32,32"])
    assert (options.number, options.size) == (3, (3, 32, 32))


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "+-3", "9" * 5000, "\u0663"])
def test_a_number_that_is_not_positive(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a whole number >= 1, got"):
        positive(text)


@pytest.mark.parametrize("text", ["2147483648", "9" * 100, "+2147483648"])
def test_a_number_that_is_too_large(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be at most 2147483647, got"):
        positive(text)


def test_threads() -> None:
    assert (threads("1"), threads("1024")) == (1, 1024)
    for text in ("1025", "99999999999"):
        with pytest.raises(argparse.ArgumentTypeError, match=rf"must be at most 1024, got '{text}"):
            threads(text)


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    paths = [str(file_path(text)) for text in ("~/x", "x/~", "-x")]
    assert paths == ["/home/me/x", "x/~", "-x"]
    for text in ("", " ", "a\0b"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be a path, got '"):
            file_path(text)


def test_words_behind_two_dashes_are_no_options() -> None:
    made = parser()
    made.add_argument("files", nargs="*")
    assert made.parse_args(["--number=3", "--", "-x.png", "--y"]).files == ["-x.png", "--y"]
    with pytest.raises(ConfigError, match=r"^unknown option --y$"):
        made.parse_args(["--y", "--", "-x.png"])


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
