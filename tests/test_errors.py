from __future__ import annotations

import copy
import pickle

import pytest

from mulfree.errors import (
    MAX_MESSAGE,
    ArtifactError,
    DataError,
    MulfreeError,
    choices_message,
    printable,
    quoted,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("größe 大きさ", "größe 大きさ"),
        ("two\nlines \r\n\t of text", "two lines of text"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202etxt.exe", r"\u202etxt.exe"),
        ("a\u200db\u00a0c", r"a\u200db\xa0c"),
        ("\udcff.png", r"\udcff.png"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_long_line_loses_its_middle() -> None:
    line = printable("what must be required, " + "x" * 1000 + ", got this", 100)
    assert len(line) == 100
    assert line.startswith("what must be required, xxx")
    assert " ... " in line
    assert line.endswith("x, got this")
    assert printable("x" * 100, 100) == "x" * 100


def test_messages_are_escaped_and_bounded() -> None:
    error = ArtifactError("load: `path` must be a file,\ngot \x1b[31m" + "x" * 10_000)
    assert str(error).startswith(r"load: `path` must be a file, got \x1b[31mxxx")
    assert len(str(error)) == MAX_MESSAGE


@pytest.mark.parametrize("kind", [MulfreeError, ArtifactError, DataError])
def test_errors_reach_other_processes(kind: type[MulfreeError]) -> None:
    for same in (pickle.loads(pickle.dumps(kind("one line"))), copy.copy(kind("one line"))):
        assert type(same) is kind
        assert str(same) == "one line"


def test_quoted_values_are_bounded() -> None:
    assert quoted("it's") == '"it\'s"'
    assert quoted("\x1b[31m") == r"'\x1b[31m'"
    assert quoted([1, 2, 3]) == "[1, 2, 3]"
    bomb: list[object] = ["x"]
    for _ in range(60):
        bomb = [bomb] * 9
    for value in ("x" * 10_000, 10**10_000 - 1, bomb, {"k" * 500: ["v" * 500] * 500}):
        assert len(quoted(value)) <= 120


def test_choices_are_listed_and_the_nearest_is_named() -> None:
    message = choices_message("f", "name", "resnet2", ["resnet20", "lenet5"])
    assert message == (
        "f: `name` must be one of lenet5, resnet20, got 'resnet2'; did you mean 'resnet20'?"
    )
