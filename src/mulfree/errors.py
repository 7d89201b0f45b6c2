"""Every error a user of mulfree can cause, as one family of types.

Each message is one line: the function, the argument, the required and the given value. The command
line prints it unchanged. Messages quote untrusted file names, options and file contents, so
`MulfreeError` escapes and shortens every message.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable

MAX_MESSAGE = 400
"""Characters of the longest error message."""

_MAX_VALUE = 120
_BREAKS = re.compile(r"[ \t]*[\t\r\n][ \t\r\n]*")


def printable(text: str, limit: int | None = None) -> str:
    """Return `text` as one line without control sequences.

    Line breaks and tabs become a space. Every other character that `str.isprintable` refuses is
    escaped as in a Python string: control characters and escape sequences, marks that reverse
    the direction of text, surrogates of undecodable file names.

    Args:
        text: Any text.
        limit: Longest result; a longer text loses its middle.
    """
    line = _BREAKS.sub(" ", text)
    if not line.isprintable():
        line = "".join(c if c.isprintable() else _escaped(c) for c in line)
    if limit is not None and len(line) > limit:
        head = limit * 2 // 3
        line = f"{line[:head]} ... {line[head + 5 - limit :]}"
    return line


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


class _Quoted(reprlib.Repr):
    """`repr` of bounded length, even if the full `repr` would not end or not fit into memory."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = _MAX_VALUE
        self.maxlong = _MAX_VALUE

    def repr_int(self, value: int, level: int) -> str:
        # Python does not format integers of more than 4300 digits.
        bits = value.bit_length()
        return super().repr_int(value, level) if bits <= 1024 else f"an integer of {bits} bits"


def quoted(value: object) -> str:
    """Return the `repr` of a value for an error message: escaped, at most 120 characters."""
    return printable(_Quoted().repr(value), _MAX_VALUE)


class MulfreeError(Exception):
    """Base of all errors raised on purpose by mulfree.

    Args:
        message: The line; escaped and shortened to `MAX_MESSAGE` characters by `printable`.

    Attributes:
        exit_code: Exit status of the command line when this error ends it.
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message, MAX_MESSAGE))


class ShapeError(MulfreeError, ValueError):
    """A tensor has the wrong rank, size or layout, or a geometry is impossible."""


class DTypeError(MulfreeError, TypeError):
    """A tensor has an unsupported dtype."""


class BackendUnavailableError(MulfreeError, RuntimeError):
    """An implementation, instruction set or optional package is not available here."""


class ConfigError(MulfreeError, ValueError):
    """A name, option or combination of options is not valid."""


class ArtifactError(MulfreeError, ValueError):
    """An untrusted file (archive, checkpoint, data set) is damaged or of another format."""


class DataError(MulfreeError, FileNotFoundError):
    """A data set was not found."""


class OutOfMemoryError(MulfreeError, MemoryError):
    """A computation needs more memory than there is."""


class TrainingError(MulfreeError, RuntimeError):
    """A training run cannot continue, for example because its loss is not finite."""

    exit_code = 1


def choices_message(function: str, arg: str, value: object, choices: Iterable[str]) -> str:
    """One line that lists the choices of `arg` and suggests the nearest to `value`."""
    listed = sorted(choices)
    near = difflib.get_close_matches(str(value)[:_MAX_VALUE], listed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{function}: `{arg}` must be one of {', '.join(listed)}, got {quoted(value)}{hint}"
