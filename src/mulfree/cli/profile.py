"""`mulfree profile`: operations, parameters, bytes and energy of a model, layer by layer."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from mulfree import models
from mulfree.cli.arguments import Parser, positive, sizes
from mulfree.errors import ConfigError, choices_message
from mulfree.operators import OPERATORS
from mulfree.profiling import ENERGY_45NM, count, to_json, to_markdown, to_text
from mulfree.profiling.counting import CONVENTIONS

_FORMATS = {"table": to_text, "json": to_json, "markdown": to_markdown}

_EPILOG = """\
The exact convention counts every layer as what it is: first and last layer of an adder network
multiply. The paper convention counts these as adder layers too, as the tables of arXiv 1912.13200
do. ResNet-32 has 69.12 M taps as printed there; of ResNet-20 the
printed 41.17 M cannot be reproduced, the network has 40.81 M."""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = Parser(
        "mulfree profile",
        "Count operations, parameters, bytes and energy (45 nm) of one image, layer by layer.",
        _EPILOG,
    )
    parser.add_argument(
        "model",
        metavar="MODEL|FILE",
        help="name of a model, a file of weights, or a run's directory",
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
        help="shape of one image (default: what the model is made for)",
    )
    parser.add_argument("--format", choices=_FORMATS, default="table", help="default: table")
    parser.add_argument(
        "--dtype", choices=ENERGY_45NM, default="fp32", help="of bytes and energy (default: fp32)"
    )
    parser.add_argument(
        "--convention", choices=CONVENTIONS, default="exact", help="see below (default: exact)"
    )
    parser.add_argument(
        "--normalisation", action="store_true", help="count the arithmetic of normalisation too"
    )
    options = parser.parse_args(argv)

    settings = {"operator": options.operator, "num_classes": options.num_classes}
    given = {name: value for name, value in settings.items() if value is not None}
    if options.model in models.list_models():
        channels = options.input_size[0] if options.input_size else 3
        model = models.create_model(options.model, in_channels=channels, **given)
    else:
        model = _load(options.model, given)
    config = models.config_of(model)
    side = models.image_size(config.name)
    profile = count(
        model,
        options.input_size or (config.arguments["in_channels"], side, side),
        dtype=options.dtype,
        convention=options.convention,
        normalisation=options.normalisation,
        name=f"{config.name} {config.arguments['operator']}",
    )
    print(_FORMATS[options.format](profile), end="")
    return 0


def _load(name: str, given: dict[str, object]) -> nn.Module:
    """The model in the file called `name`, which fixes what is otherwise given."""
    path = Path(name)
    if not path.suffix and not path.exists():
        raise ConfigError(choices_message("profile", "model", name, models.list_models()))
    for option in given:
        raise ConfigError(
            f"profile: `--{option.replace('_', '-')}` must be left out with a file, "
            f"got {given[option]!r} for {name}"
        )
    # Only files need it, and it brings Lightning.
    from mulfree.training import load_model

    return load_model(path)
