"""`mulfree profile`: operations, parameters, bytes, energy and latency of networks."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mulfree import cost, models
from mulfree.cli.arguments import Parser, file_path, positive, sizes, threads
from mulfree.cli.kinds import find_kind
from mulfree.cli.kinds.kind import Part
from mulfree.cli.network import kind_of
from mulfree.cli.network_name import GRAMMAR, NamedNetwork, find_network, refusal
from mulfree.cli.output import print_text
from mulfree.cost.counting import CONVENTIONS
from mulfree.errors import BackendUnavailableError, ConfigError, quoted
from mulfree.files import check_writable
from mulfree.operators import OPERATORS
from mulfree.runtime import Graph
from mulfree.runtime.native import compiled

_FORMATS = {
    "table": (cost.to_text, cost.comparison_to_text),
    "json": (cost.to_json, cost.comparison_to_json),
    "markdown": (cost.to_markdown, cost.comparison_to_markdown),
}
_ROUNDS = 21

_EPILOG = f"""\
{GRAMMAR}

The exact convention counts every layer as what it is: first and last layer of an adder network
multiply. The paper convention counts these as adder layers too, as the tables of arXiv 1912.13200
do. The binary twin has layers of one bit in the place of adder layers: one XNOR and one addition a
tap. docs/cost.md compares the tables of the papers.

Of a depth-dynamic network the totals of all sub-nets follow the table of the full network, of a
network with exits the totals up to every exit.

Of an artifact of mulfree quantize every node is counted as it is, with the arithmetic of its
normalisations: differences and products of bytes, all else at 32 bits. Multiplications by powers
of two are shifts and not counted.

  mulfree profile resnet20:adder2d
  mulfree profile --compare resnet20 resnet20:adder2d resnet20:binary --plot costs.png
  mulfree profile --compare resnet20:adder2d network.mulfree --latency"""


def main(argv: list[str]) -> int:
    """Run the command."""
    options = _parser().parse_args(argv)
    if options.compare is not None:
        if options.model:
            raise ConfigError(
                f"profile: all networks must follow `--compare`, got {quoted(options.model[0])}"
            )
        text = _comparison(options)
    elif len(options.model) == 1:
        text = _single(options, options.model[0])
    else:
        raise ConfigError(
            "profile: one MODEL|FILE must be given, or several after `--compare`, got "
            f"{len(options.model)}"
        )
    print_text(text.rstrip("\n"))
    return 0


def _parser() -> Parser:
    parser = Parser(
        "mulfree profile",
        "Count operations, parameters, bytes and energy (45 nm) of one image, layer by layer, or "
        "of networks side by side.",
        _EPILOG,
    )
    parser.add_argument("model", nargs="*", metavar="MODEL|FILE", help="network, see below")
    parser.add_argument(
        "--compare", nargs="+", metavar="MODEL|FILE", help="networks side by side, totals alone"
    )
    parser.add_argument(
        "--operator", choices=OPERATORS, help="operator of named models (default: conv2d)"
    )
    parser.add_argument(
        "--num-classes", type=positive, metavar="N", help="of named models (default: 10)"
    )
    parser.add_argument(
        "--input-size",
        type=sizes,
        metavar="C,H,W",
        help="shape of one image (default: what a file's network was trained on, or "
        "else what the model is made for)",
    )
    parser.add_argument("--format", choices=_FORMATS, default="table", help="default: table")
    parser.add_argument(
        "--json", action="store_const", const="json", dest="format", help="short for --format json"
    )
    parser.add_argument("--dtype", choices=cost.ENERGY_45NM, help="of bytes and energy (fp32)")
    parser.add_argument("--convention", choices=CONVENTIONS, help="see below (default: exact)")
    parser.add_argument(
        "--normalisation",
        action="store_true",
        default=None,
        help="count the arithmetic of normalisation too",
    )
    compared = parser.add_argument_group("with --compare")
    compared.add_argument("--plot", type=file_path, metavar="FILE.png", help="bars as a picture")
    compared.add_argument(
        "--latency", action="store_true", default=None, help="measure the time of one image"
    )
    compared.add_argument("--threads", type=threads, metavar="N", help="of --latency (default: 1)")
    compared.add_argument(
        "--rounds", type=positive, metavar="N", help=f"samples of --latency (default: {_ROUNDS})"
    )
    compared.add_argument(
        "--mixed-sizes",
        action="store_true",
        default=None,
        help="compare networks for images of different sizes",
    )
    return parser


def _given(options: Namespace, *names: str) -> dict[str, Any]:
    """The given options among `names`."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _find(options: Namespace, word: str) -> NamedNetwork:
    size = options.input_size
    return find_network(
        "profile",
        word,
        _given(options, "operator", "num_classes"),
        in_channels=size[0] if size else None,
        images=size is None,
    )


def _single(options: Namespace, word: str) -> str:
    """One network layer by layer, and the totals of its parts."""
    found = _find(options, word)
    for name, value in _given(
        options, "plot", "latency", "threads", "rounds", "mixed_sizes"
    ).items():
        raise refusal("profile", name, "one network", str(value), word)
    form, compared_form = _FORMATS[options.format]
    if isinstance(found.network, Graph):
        return form(_profile(options, word, found))
    kind = find_kind(found.network)
    if not kind.has_whole:
        for name, value in _given(options, "input_size", "dtype", "normalisation").items():
            raise refusal("profile", name, "a network of dynamic resolution", value, word)
        return compared_form(_compared(options, kind.parts(found.network, None)))
    text = form(_profile(options, word, found))
    parts = {} if found.binary else kind.parts(found.network, options.input_size)
    if not parts:
        return text
    table = compared_form(_compared(options, parts))
    if options.format != "json":
        return f"{text}\n{table}"
    whole = text.rstrip().removesuffix("}").rstrip()
    return f'{whole},\n  "{kind.parts_name}": {table.rstrip()}\n}}\n'


def _profile(options: Namespace, word: str, found: NamedNetwork) -> cost.Profile:
    counted = _given(options, "input_size", "dtype", "convention", "normalisation")
    if isinstance(found.network, Graph):
        for name, value in counted.items():
            raise refusal("profile", name, "an artifact", value, word)
        counts = cost.count_graph(found.network)
        return replace(counts, arena_bytes=_arena_bytes(found.network))
    counted.setdefault("input_size", models.input_size(found.network))
    name = f"{kind_of(found.network)}{' binary' * found.binary}"
    kind = find_kind(found.network)
    return kind.count(found.network, binary=found.binary, name=name, **counted)


def _compared(options: Namespace, parts: Mapping[str, Part]) -> cost.Comparison:
    """Parts of a network side by side."""
    return cost.compare(
        {name: part.network for name, part in parts.items()},
        input_size={name: part.input_size for name, part in parts.items()},
        convention=options.convention or CONVENTIONS[0],
        mixed_sizes=True,
    )


def _arena_bytes(graph: Graph) -> int | None:
    """Return the memory of a session for one image, or None without native kernels."""
    try:
        return compiled(graph).arena_bytes
    except BackendUnavailableError:
        return None


def _comparison(options: Namespace) -> str:
    words = options.compare
    for name, value in _given(options, "dtype", "normalisation").items():
        raise refusal("profile", name, "--compare", value, words[0])
    for name, value in _given(options, "threads", "rounds").items():
        if not options.latency:
            raise ConfigError(f"profile: `--{name}` must come with --latency, got {value}")
    for index, word in enumerate(words):
        if word in words[:index]:
            raise ConfigError(f"profile: `--compare` must name a network once, got {quoted(word)}")
    if options.plot is not None:
        if options.plot.suffix.lower() != ".png":
            raise ConfigError(f"profile: `--plot` must end in .png, got {options.plot}")
        check_writable(options.plot)
    found = {word: _find(options, word) for word in words}
    floats = {
        word: named.network for word, named in found.items() if not isinstance(named.network, Graph)
    }
    compared: Mapping[str, Any] = {
        "input_size": {
            word: options.input_size or models.input_size(network)
            for word, network in floats.items()
        },
        "convention": options.convention or CONVENTIONS[0],
        "binary": [word for word, named in found.items() if named.binary],
        "mixed_sizes": bool(options.mixed_sizes),
    }
    networks = {word: named.network for word, named in found.items()}
    counted = {word: find_kind(network).whole(network) for word, network in floats.items()}
    comparison = cost.compare({**networks, **counted}, **compared)
    if options.latency:
        comparison = replace(comparison, latency=_latency(options, comparison, found))
    if options.plot is not None:
        from mulfree import inspection

        inspection.save(inspection.plot_comparison(comparison), options.plot)
    return _FORMATS[options.format][1](comparison)


def _latency(
    options: Namespace, comparison: cost.Comparison, found: Mapping[str, NamedNetwork]
) -> cost.Latency:
    """Times of all networks but binary twins, which are counted alone."""
    from mulfree.bench.latency import measure_latency

    return measure_latency(
        {
            counted.name: (found[counted.name].network, counted.input_size)
            for counted in comparison.networks
            if not found[counted.name].binary
        },
        threads=options.threads or 1,
        rounds=options.rounds or _ROUNDS,
    )
