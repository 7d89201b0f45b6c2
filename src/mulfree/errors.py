"""Every error a user of mulfree can cause, as one family of types.

Each message is one line that names the function, the argument, what is required and what was
given, so that it can be shown as it stands by the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MulfreeError(Exception):
    """Base of all errors raised on purpose by mulfree.

    Attributes:
        exit_code: Exit status of the command line when this error ends it.
    """

    exit_code = 2


class ShapeError(MulfreeError, ValueError):
    """A tensor has the wrong rank, size or layout, or a geometry is impossible."""


class DTypeError(MulfreeError, TypeError):
    """A tensor has a dtype that the function does not take."""


class BackendUnavailableError(MulfreeError, RuntimeError):
    """An implementation, instruction set or optional package is not available here."""


class ConfigError(MulfreeError, ValueError):
    """A name, option or combination of options is not valid."""


class ArtifactError(MulfreeError, ValueError):
    """An untrusted file (archive, checkpoint, data set) is damaged or not what it claims."""


class DataError(MulfreeError, FileNotFoundError):
    """A data set is not where it was looked for."""


class TrainingError(MulfreeError, RuntimeError):
    """A training run cannot go on, for example because its loss is not finite."""

    exit_code = 1


def choices_message(function: str, arg: str, value: object, choices: Iterable[str]) -> str:
    """One line that lists the choices of `arg` and suggests the nearest to `value`."""
    listed = sorted(choices)
    near = difflib.get_close_matches(str(value), listed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{function}: `{arg}` must be one of {', '.join(listed)}, got {value!r}{hint}"
