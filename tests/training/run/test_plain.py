from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from mulfree.training.run.plain import Plain, parse, read, write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("", None), ("~", None), ("null", None), ("true", True), ("No", False), ("ON", True)),
        *(("3", 3), ("-1_000", -1000), ("010", "010"), ("1:30", "1:30"), ("2026-01-01",) * 2),
        *(("1e-3", 1e-3), ("1.0e-05", 1e-5), (".5", 0.5), ("-.inf", -math.inf), ("1.", 1.0)),
        *(("e", "e"), ("'1'", "1"), ('"~"', "~"), ("a b", "a b"), ("[1, [x]]", [1, ["x"]])),
        ("a: {1: 2, null: [true, 'true']}", {"a": {"1": 2, "null": [True, "true"]}}),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("# nothing", None),
    ],
)
def test_values(text: str, value: Plain) -> None:
    found = parse(text)
    assert found == value
    assert type(found) is type(value)


def test_what_is_no_number() -> None:
    value = parse(".nan")
    assert isinstance(value, float)
    assert math.isnan(value)


BOMB = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{f'*a{i}, ' * 10}]\n" for i in range(10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"^anchors and aliases are not taken \(line 1\)$"),
        ("model: &m {options: *m}", "^anchors and aliases are not taken"),
        ("a: 1\nb: *a", r"^anchors and aliases are not taken \(line 2\)$"),
        ("&k k: 1", "^anchors and aliases are not taken"),
        ("!!python/object/apply:os.system ['false']", "^tags are not taken"),
        ("a: !!str 1", "^tags are not taken"),
        ("! a", "^tags are not taken"),
        ("[" * 18 + "]" * 18, "^nested deeper than 16"),
        ("[" * 100_000, "^nested deeper than 16"),
        ("- " * 100_000, "^nested deeper than 16"),
        ("{a: " * 100_000, "^nested deeper than 16"),
        ("? " * 100_000, "^keys must be words"),
        (f"[{'0,' * 10_000}]", "^more than 10000 values"),
        ("a: 1\na: 2", r"^'a' is given twice \(line 2\)$"),
        ("[a]: 1", "^keys must be words"),
        ("--- 1\n--- 2", "^more than one document"),
        ("[", "^while parsing a flow"),
        ("a: b: c", "^mapping values are not allowed here"),
        ("\x00", "^unacceptable character"),
        ("9" * 5000, "^Exceeds the limit"),
        ('"\\ud800"', "^not text"),
    ],
)
def test_what_is_more_than_plain_values(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 200


@pytest.mark.parametrize(
    "value",
    [
        *("1e5", "1e999", "1.e5", "-1E3", "1_0", ".5", "0x10", "yes", "~", "", "null", "1:30"),
        "==",
        *("a: b", "&a", "*a", "<<", "2026-01-01", "é\u2028", "\x85", 1e-5, 1e300, -math.inf, 0.1),
        *(True, None, 10**30, [], {}, {"1": {"null": ["1", 1]}}),
    ],
)
def test_what_is_written_is_read(value: Plain) -> None:
    for whole in (value, {"a": value}, [value, [value]]):
        found = parse(write(whole))
        assert repr(found) == repr(whole)


def test_what_is_there_twice_is_written_twice() -> None:
    inner: Plain = ["x"]
    assert parse(write({"a": inner, "b": inner})) == {"a": ["x"], "b": ["x"]}


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(path) == {"a": 1}
    path.write_bytes(b"#" * 2**18)
    assert read(path) is None
    path.write_bytes(b"#" * (2**18 + 1))
    with pytest.raises(OSError, match="Larger than 262144 bytes"):
        read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="can't decode byte 0xff"):
        read(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        read(tmp_path / "pipe")
