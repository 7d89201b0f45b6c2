"""Networks by a word of the command line: a model with its options, or a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mulfree import models
from mulfree.cli.network import load_any
from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.operators import OPERATORS
from mulfree.runtime import Graph
from mulfree.training.run import plain

BINARY = "binary"
"""Word for the binary twin of a network."""

GRAMMAR = """\
MODEL is the name of a model, with an operator, options and `binary` after colons:
  resnet20   resnet20:adder2d   resnet20:binary   resnet20:adder2d:width=0.5:num_classes=100
FILE is a checkpoint, weights or a run's directory (`:binary` may follow), or an artifact."""


@dataclass(frozen=True, kw_only=True)
class NamedNetwork:
    """A network or its binary twin.

    Attributes:
        network: Float or quantised network.
        binary: Whether its binary twin is meant.
    """

    network: nn.Module | Graph
    binary: bool


def find_network(
    command: str, word: str, given: Mapping[str, Any], *, in_channels: int | None, images: bool
) -> NamedNetwork:
    """Build or load the network that a word names, see `GRAMMAR`.

    Args:
        command: Name of the command in errors.
        word: The word.
        given: Options of a model by the names of `create_model`; refused with a file.
        in_channels: Channels of the images of a model; None for its default.
        images: The image size of a float network is needed, see `load_any`.

    Raises:
        ConfigError: No model has this name, or an option is unknown, not possible or given twice.
        ArtifactError: The file is damaged.
    """
    name, *parts = word.split(":")
    if name in models.list_models():
        arguments = _arguments(command, word, parts, given)
        binary = arguments.pop(BINARY, False)
        if in_channels is not None:
            arguments.setdefault("in_channels", in_channels)
        model = models.create_model(name, **arguments)
        return NamedNetwork(network=model, binary=binary)
    file = word.removesuffix(f":{BINARY}")
    path = Path(os.path.expanduser(file))
    if not path.suffix and not path.exists():
        raise ConfigError(choices_message(command, "model", name, models.list_models()))
    for option, value in given.items():
        raise refusal(command, option, "a file", value, word)
    network = load_any(path, images_for=command if images else None)
    return NamedNetwork(network=network, binary=file != word)


def refusal(command: str, option: str, kind: str, value: object, word: str) -> ConfigError:
    """Error for an option that does not apply to a network."""
    return ConfigError(
        f"{command}: `--{option.replace('_', '-')}` must be left out with {kind}, "
        f"got {value!r} for {word}"
    )


def _arguments(
    command: str, word: str, parts: list[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of `create_model` and `BINARY`, of options and the parts of a word."""
    arguments = dict(given)
    for part in parts:
        key, equals, text = part.partition("=")
        if equals:
            value = _value(command, key, text)
        elif part == BINARY:
            key, value = BINARY, True
        elif part in OPERATORS:
            key, value = "operator", part
        else:
            choices = (*OPERATORS, BINARY, "OPTION=VALUE")
            raise ConfigError(choices_message(command, word, part, choices))
        if key in arguments:
            raise ConfigError(f"{command}: `{key}` must be given once, got {quoted(word)}")
        arguments[key] = value
    return arguments


def _value(command: str, key: str, text: str) -> plain.Plain:
    try:
        return plain.parse(text)
    except ValueError as error:
        raise ConfigError(
            f"{command}: `{key}` must be a plain value, got {quoted(text)}: {error}"
        ) from error
