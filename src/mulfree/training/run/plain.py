"""Plain values as YAML: numbers, words, lists and tables.

Full YAML can name Python types, and a few lines can stand for any number of values. Here a text is
read event by event: tags, anchors, aliases, deep nesting and too many values are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import yaml

from mulfree.errors import printable
from mulfree.files import read_regular
from mulfree.training.run.typed import HALVES

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"
"""Value of a text."""

_MAX_BYTES = 2**18
_MAX_VALUES = 10_000
_MAX_DEPTH = 16
_MAX_REASON = 200

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
)


def _spellings(words: str) -> list[str]:
    return [form(word) for word in words.split() for form in (str.lower, str.title, str.upper)]


_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(["", "~", *_spellings("null")], None),
    **dict.fromkeys(_spellings("true yes on"), True),
    **dict.fromkeys(_spellings("false no off"), False),
    **dict.fromkeys([".inf", ".Inf", ".INF", "+.inf"], float("inf")),
    **dict.fromkeys(["-.inf", "-.Inf", "-.INF"], float("-inf")),
    **dict.fromkeys([".nan", ".NaN", ".NAN"], float("nan")),
}


def parse(text: str) -> Plain:
    """Parse a text in YAML; keys of tables are always text.

    Raises:
        ValueError: It is not YAML, or more than plain values; the message is one line.
    """
    try:
        return _Reader(yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(printable(str(error), _MAX_REASON)) from error


def read(path: Path) -> Plain:
    """Read the value in a file.

    Raises:
        OSError: It cannot be read, is too large, or is something else than a file.
        ValueError: It is not YAML in UTF-8, or more than plain values.
    """
    return parse(read_regular(path, _MAX_BYTES).decode("utf-8-sig"))


def write(value: Plain) -> str:
    """Return the text of a value, the inverse of `parse`."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False)


class _Writer(yaml.SafeDumper):
    """Dumper that quotes text which `parse` would read as a number, and uses no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Writer.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"^({_FLOAT.pattern})$"), list("-+.0123456789")
)


class _Reader:
    """Values from the events of a parser."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._values = 0

    def document(self) -> Plain:
        value: Plain = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                self._check(documents == 1, "more than one document", event)
            elif isinstance(event, yaml.NodeEvent):
                value = self._value(event, 0)
        return value

    def _value(self, event: yaml.Event, depth: int) -> Plain:
        self._values += 1
        self._check(self._values <= _MAX_VALUES, f"more than {_MAX_VALUES} values", event)
        self._check(depth <= _MAX_DEPTH, f"nested deeper than {_MAX_DEPTH}", event)
        plain = isinstance(event, yaml.NodeEvent) and event.anchor is None
        self._check(plain, "anchors and aliases are not taken", event)
        self._check(getattr(event, "tag", None) is None, "tags are not taken", event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._value(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        table: dict[str, Plain] = {}
        for item in self._until(yaml.MappingEndEvent):
            if not isinstance(item, yaml.ScalarEvent):
                raise _error("keys must be words", item)
            self._value(item, depth + 1)
            key = self._text(item)
            self._check(key not in table, f"{key!r} is given twice", item)
            table[key] = self._value(next(self._events), depth + 1)
        return table

    def _until(self, end: type[yaml.Event]) -> Iterator[yaml.Event]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _scalar(self, event: yaml.ScalarEvent) -> Plain:
        text = self._text(event)
        if event.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text.replace("_", ""))
        if _FLOAT.fullmatch(text):
            return float(text.replace("_", ""))
        return text

    def _text(self, event: yaml.ScalarEvent) -> str:
        text: str = event.value
        # An escape in quotes can be half of a character, which no file name can hold.
        self._check(not HALVES.search(text), "not text", event)
        return text

    @staticmethod
    def _check(holds: bool, reason: str, event: yaml.Event) -> None:
        if not holds:
            raise _error(reason, event)


def _error(reason: str, event: yaml.Event) -> ValueError:
    mark = event.start_mark
    return ValueError(reason if mark is None else f"{reason} (line {mark.line + 1})")
