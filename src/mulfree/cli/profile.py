"""`mulfree profile`: operations, parameters, bytes and energy of a network, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from mulfree import models
from mulfree.cli.arguments import Parser, positive, sizes
from mulfree.cli.network import kind_of, load_any
from mulfree.cli.output import print_text
from mulfree.cost import (
    ENERGY_45NM,
    Profile,
    count,
    count_graph,
    to_json,
    to_markdown,
    to_text,
)
from mulfree.cost.counting import CONVENTIONS
from mulfree.errors import BackendUnavailableError, ConfigError, choices_message
from mulfree.operators import OPERATORS
from mulfree.runtime import Graph
from mulfree.runtime.native import compiled

_FORMATS = {"table": to_text, "json": to_json, "markdown": to_markdown}

_EPILOG = """\
The exact convention counts every layer as what it is: first and last layer of an adder network
multiply. The paper convention counts these as adder layers too, as the tables of arXiv 1912.13200
do. ResNet-32 has 69.12 M taps as printed there; of ResNet-20 the
printed 41.17 M cannot be reproduced, the network has 40.81 M.

Of an artifact of mulfree quantize every node is counted as it is, with the arithmetic of its
normalisations: differences and products of bytes, all else at 32 bits. Multiplications by powers
of two are shifts and not counted."""


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser(
        "mulfree profile",
        "Count operations, parameters, bytes and energy (45 nm) of one image, layer by layer.",
        _EPILOG,
    )
    parser.add_argument(
        "model",
        metavar="MODEL|FILE",
        help="name of a model, a checkpoint, weights or a run's directory, or an artifact",
    )
    parser.add_argument(
        "--operator", choices=OPERATORS, help="operator of a named model (default: conv2d)"
    )
    parser.add_argument(
        "--num-classes", type=positive, metavar="N", help="of a named model (default: 10)"
    )
    parser.add_argument(
        "--input-size",
        type=sizes,
        metavar="C,H,W",
        help="shape of one image (default: what a file's network was trained on, or "
        "else what the model is made for)",
    )
    parser.add_argument("--format", choices=_FORMATS, default="table", help="default: table")
    parser.add_argument("--dtype", choices=ENERGY_45NM, help="of bytes and energy (default: fp32)")
    parser.add_argument("--convention", choices=CONVENTIONS, help="see below (default: exact)")
    parser.add_argument(
        "--normalisation",
        action="store_true",
        default=None,
        help="count the arithmetic of normalisation too",
    )
    options = parser.parse_args(argv)

    named = _given(options, "operator", "num_classes")
    counted = _given(options, "input_size", "dtype", "convention", "normalisation")
    if options.model in models.list_models():
        channels = counted.get("input_size", (3,))[0]
        profile = _count(
            models.create_model(options.model, in_channels=channels, **named), **counted
        )
    else:
        profile = _count_file(options.model, named, counted)
    print_text(_FORMATS[options.format](profile).rstrip("\n"))
    return 0


def _given(options: Any, *names: str) -> dict[str, Any]:
    """The given options among `names`."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _count_file(name: str, named: Mapping[str, Any], counted: Mapping[str, Any]) -> Profile:
    """Profile of the network in a file, which fixes the options `named`."""
    path = Path(os.path.expanduser(name))
    if not path.suffix and not path.exists():
        raise ConfigError(choices_message("profile", "model", name, models.list_models()))
    _refuse_options(named, "a file", name)
    network = load_any(path, images_for=None if "input_size" in counted else "profile")
    if isinstance(network, Graph):
        _refuse_options(counted, "an artifact", name)
        return replace(count_graph(network), arena_bytes=_arena_bytes(network))
    return _count(network, **counted)


def _arena_bytes(graph: Graph) -> int | None:
    """Return the memory of a session for one image, or None without native kernels."""
    try:
        return compiled(graph).arena_bytes
    except BackendUnavailableError:
        return None


def _refuse_options(given: Mapping[str, Any], kind: str, name: str) -> None:
    for option, value in given.items():
        raise ConfigError(
            f"profile: `--{option.replace('_', '-')}` must be left out with {kind}, "
            f"got {value!r} for {name}"
        )


def _count(
    model: nn.Module, *, input_size: tuple[int, ...] | None = None, **counted: Any
) -> Profile:
    size = input_size or models.input_size(model)
    return count(model, size, name=kind_of(model), **counted)
