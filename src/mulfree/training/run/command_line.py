"""Configuration of a run read from the command line and from YAML files."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from mulfree.errors import BackendUnavailableError, ConfigError, printable
from mulfree.files import expanded
from mulfree.training.methods import METHODS
from mulfree.training.run.config import (
    MAX_NAME,
    Option,
    TrainConfig,
    check_known,
    check_sections,
    checked,
    defaults,
    leaves,
    merged,
    method_of,
    option_names,
    sections,
)
from mulfree.training.run.plain import parse, read
from mulfree.training.run.typed import members, names, typed

if TYPE_CHECKING:
    import jsonargparse


# Prefix of the options of a network.
_OPTIONS = "model.options."
_NEGATIVE = re.compile(r"-[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?")


def read_config(words: Sequence[str], base: TrainConfig | None = None) -> TrainConfig:
    """Return the configuration of a command line.

    Args:
        words: Dotted options such as `--optimizer.lr=0.05` and `--config FILE.yaml`; the last one
            wins, and options win over files.
        base: Values of all other options; by default the defaults of `TrainConfig`.

    Raises:
        ConfigError: An option is unknown or abbreviated, or has a bad value, or a file cannot be
            read.
    """
    paths, rest = take_option(words, "--config")
    files = {path: _read_file(path) for path in paths}
    values: dict[str, Any] = {} if base is None else base.to_dict()
    given = _options(rest)
    method = method_of([values, *files.values()], given)
    for path, content in files.items():
        check_sections(content, method, path)
        values = merged(values, content)
    known = option_names(method)
    for name, text in given:
        if not name.startswith(_OPTIONS):
            check_known(name, known, "the command line")
        if text is None:
            raise ConfigError(f"train: argument --{name}: expected one argument")
    values = merged(values, {"method": {"name": method}})
    kinds = sections(method)
    for name, text in given:
        section, _, key = name.partition(".")
        hint = get_type_hints(kinds[section])[key.partition(".")[0]]
        if name.startswith(_OPTIONS):
            options = values.setdefault(section, {}).setdefault("options", {})
            options[name.removeprefix(_OPTIONS)] = _plain_option(name, str(text))
        else:
            values.setdefault(section, {})[key] = _worded(name, str(text), hint)
    return TrainConfig.from_dict(values)


def help_parser(words: Sequence[str]) -> jsonargparse.ArgumentParser:
    """Return the parser of all options, with the options of the chosen method.

    Raises:
        ConfigError: There is no such method, or a file cannot be read.
        BackendUnavailableError: The package that parses options is not installed.
    """
    paths, rest = take_option(words, "--config")
    method = method_of([_read_file(path) for path in paths], _options(rest))
    parser = build_parser(method)
    others = ", ".join(name for name in METHODS if name != method)
    parser.epilog = (
        f"The options of method.* are those of {method}; of another method ({others}) they are "
        "shown with --method.name NAME --help."
    )
    return parser


def take_option(words: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Return the values of an option that names a file, and the words without it.

    Raises:
        ConfigError: Nothing follows the option.
    """
    values: list[str] = []
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            rest += [word, *remaining]
            break
        name, equals, value = word.partition("=")
        if name != option:
            rest.append(word)
            continue
        file = value if equals else next(remaining, None)
        if not file:
            raise ConfigError(f"train: `{option}` must be followed by a file")
        values.append(file)
    return values, rest


def build_parser(method: str) -> jsonargparse.ArgumentParser:
    """Return the parser of all options, for their help; values never reach this parser.

    Raises:
        BackendUnavailableError: The package that parses options is not installed.
    """
    parser: jsonargparse.ArgumentParser = _jsonargparse().ArgumentParser(
        prog="mulfree train",
        description="Train a network. Without options, a small adder network on digits.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="file with options; may be repeated")
    for name, kind in sections(method).items():
        # A field of a base class is annotated with the names of another module.
        vars(kind)["__init__"].__annotations__.update(get_type_hints(kind))
        parser.add_class_arguments(kind, name)
    for action in parser._actions:
        if action.dest in sections(method):
            # An option for a whole section from another file; such files are not read.
            action.help = argparse.SUPPRESS
    parser.set_defaults(dict(leaves(defaults(method))))
    return parser


def _jsonargparse() -> Any:
    # Imported late, so that runs can be configured in Python and resumed without it.
    try:
        return importlib.import_module("jsonargparse")
    except ImportError as error:
        raise BackendUnavailableError(
            "train: `--help` needs jsonargparse: pip install 'jsonargparse[signatures]'"
        ) from error


def _worded(name: str, text: str, hint: Any) -> Any:
    """Value of an option, parsed from a word of the command line."""
    kinds = members(hint)
    choices = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    # A path or a name may look like a number.
    if text in choices or (str in kinds and text != "null"):
        return checked(name, text, str)
    try:
        value = parse(text) if text else text
        if isinstance(value, str):
            raise TypeError("a word is none of them")
        return typed(value, hint)
    except (TypeError, ValueError) as error:
        others = [kind for kind in kinds if kind is not str and get_origin(kind) is not Literal]
        words = [f"one of {', '.join(map(repr, choices))}"] if choices else []
        wanted = " or ".join([*words, *names(others)])
        if isinstance(error, ValueError):
            wanted += f" ({error})"
        raise ConfigError(
            f"train: `{name}` must be {wanted}, got {printable(text, MAX_NAME)}"
        ) from error


def _plain_option(name: str, text: str) -> Any:
    """Value of an option of the network, of any plain type."""
    try:
        return typed(parse(text), Option)
    except (TypeError, ValueError) as error:
        wanted = f"plain data ({error})" if isinstance(error, ValueError) else str(error)
        raise ConfigError(
            f"train: `{name}` must be {wanted}, got {printable(text, MAX_NAME)}"
        ) from error


def _options(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """Options in the words with their text, or None for an option without a value.

    Raises:
        ConfigError: A word belongs to no option.
    """
    found: list[tuple[str, str | None]] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--") or word == "--":
            stray = " ".join(remaining if word == "--" else [word])
            if stray:
                raise ConfigError(f"train: unrecognized arguments: {stray}")
            break
        name, equals, value = word[2:].partition("=")
        if equals:
            found.append((name, value))
        elif remaining and (remaining[0][:1] != "-" or _NEGATIVE.fullmatch(remaining[0])):
            found.append((name, remaining.pop(0)))
        else:
            found.append((name, None))
            if remaining and not remaining[0].startswith("--"):
                remaining.pop(0)
    return found


def _read_file(path: str) -> dict[str, Any]:
    try:
        values = read(Path(expanded(path)))
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ConfigError(
            f"train: `--config` must be a readable YAML file, got {path}: {reason}"
        ) from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(
            f"train: `--config` must hold sections of options, got {path} with a "
            f"{type(values).__name__}"
        )
    return values
