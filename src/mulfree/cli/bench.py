"""`mulfree bench`: time operators, training steps and networks against the convolution."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch

from mulfree import models
from mulfree._native import core
from mulfree.bench.runtime_report import plot
from mulfree.bench.suites import (
    QUICK_BATCH,
    QUICK_ROUNDS,
    ROUNDS,
    SUITES,
    BenchOptions,
    Suite,
    get_suite,
)
from mulfree.cli.arguments import Parser, file_path, names, positive, sizes, thread_counts
from mulfree.cli.output import print_text
from mulfree.cli.progress import progress
from mulfree.cost.counting import BASELINE
from mulfree.environment import ISA_VARIABLE, environment, variables
from mulfree.errors import BackendUnavailableError, ConfigError, choices_message
from mulfree.files import check_writable, write_atomically
from mulfree.operators import OPERATORS

SCHEMA = "mulfree.bench/1"

# oneDNN's name of the instruction set that its convolution is restricted to.
_ONEDNN_ISA = {"avx2": "AVX2", "scalar": "SSE41"}

_EPILOG = """\
{suites}

Each candidate is checked against its definition first; a wrong kernel is not timed.
Ratios are to the convolution of the same geometry, timed in turns with the operator.
With --device cuda the convolution is cuDNN's, without TF32, and isa is left out; number formats,
compiled steps and the device's own limits are measured by benchmarks/gpu.sh.

runtime quantises networks with random weights to 8 bits and runs each as
  mulfree int8 adder2d, conv2d   in this package's runtime, from pixels
  torch fp32                     PyTorch, channels_last, inference_mode
  onnxruntime fp32, int8         ONNX Runtime; int8 is its static quantisation (QDQ, per channel)
"times as fast" compares with the fastest of the last three, which are convolutional. Networks of
the runtime must equal the reference bit for bit. Memory is that of a process of its own."""


def main(argv: list[str]) -> int:
    """Run the command."""
    width = max(map(len, SUITES)) + 2
    summaries = {name: get_suite(name).summary.split("\n") for name in SUITES}
    suites = "\n".join(
        name.ljust(width) + f"\n{' ' * width}".join(lines) for name, lines in summaries.items()
    )
    parser = Parser("mulfree bench", "Time against the convolution.", _EPILOG.format(suites=suites))
    parser.add_argument(
        "suite", nargs="?", choices=(*SUITES, "all"), default="all", help="default: all"
    )
    parser.add_argument("--operator", default="adder2d", help="default: adder2d")
    parser.add_argument(
        "--models", type=names, default=(), metavar="NAME,...", help="networks of the suite"
    )
    parser.add_argument(
        "--batches", type=sizes, default=(), metavar="N,...", help="images in a batch"
    )
    parser.add_argument("--input-size", type=sizes, metavar="C,H,W", help="shape of one image")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where (default: cpu)"
    )
    parser.add_argument(
        "--threads", type=thread_counts, default=(), metavar="N,...", help="default: torch's"
    )
    parser.add_argument("--isa", help="force one instruction set, on the convolution too")
    parser.add_argument(
        "--rounds", type=positive, metavar="N", help=f"samples of each (default: {ROUNDS})"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"ResNet-20, batch {QUICK_BATCH}, {QUICK_ROUNDS} rounds",
    )
    parser.add_argument(
        "--output", type=file_path, metavar="FILE", help="write the result as JSON too"
    )
    parser.add_argument("--plot", type=file_path, metavar="FILE", help="plot of runtime, PNG")
    arguments = parser.parse_args(argv)
    options = BenchOptions(
        **{field.name: getattr(arguments, field.name) for field in fields(BenchOptions)}
    )
    chosen = _choose(arguments.suite, options)
    alone = any(suite.alone for suite in chosen.values())
    _check(options)
    for suite in chosen.values():
        suite.check(options)
    if not alone:
        _check_single(options)
        if arguments.plot is not None:
            raise ConfigError(f"bench: `--plot` must be left out, got suite {arguments.suite}")
    for path in (arguments.output, arguments.plot):
        if path is not None:
            check_writable(path)

    with _machine(None if alone else next(iter(options.threads), None), options.isa):
        result = _measure(chosen, options)
    if arguments.output is not None:
        write_atomically(arguments.output, json.dumps(result, indent=1).encode() + b"\n")
    if arguments.plot is not None:
        plot(result, arguments.plot)
    tables = (
        suite.report(options.operator, result if suite.alone else result[name])
        for name, suite in chosen.items()
    )
    print_text("\n".join(tables).rstrip("\n"))
    return 0


def _choose(name: str, options: BenchOptions) -> dict[str, Suite]:
    """Suites of a name; `all` leaves out instruction sets where there is no choice of them."""
    if name != "all":
        return {name: get_suite(name)}
    suites = {name: get_suite(name) for name in SUITES}
    if options.isa is not None or options.device != "cpu":
        del suites["isa"]
    return {name: suite for name, suite in suites.items() if suite.in_all and not suite.alone}


def _check(options: BenchOptions) -> None:
    operators = [name for name in OPERATORS if name != BASELINE]
    if options.operator not in operators:
        raise ConfigError(choices_message("bench", "--operator", options.operator, operators))
    known = models.list_models()
    for name in options.models:
        if name not in known:
            raise ConfigError(choices_message("bench", "--models", name, known))
    if options.input_size is not None and len(options.input_size) != 3:
        raise ConfigError(
            f"bench: `--input-size` must be three sizes C,H,W, got {options.input_size}"
        )
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError("bench: `--device` must be cpu where torch finds no CUDA GPU")
    if options.isa is not None:
        if options.device == "cuda":
            raise ConfigError("bench: `--device` must be cpu for instruction sets, got cuda")
        isas = core().supported_isas()
        if options.isa not in isas:
            raise ConfigError(choices_message("bench", "--isa", options.isa, isas))


def _check_single(options: BenchOptions) -> None:
    for name, values in (("batches", options.batches), ("threads", options.threads)):
        if len(values) > 1:
            raise ConfigError(
                f"bench: `--{name}` must be one number except for runtime, got {values}"
            )


@contextlib.contextmanager
def _machine(threads: int | None, isa: str | None) -> Iterator[None]:
    """Threads and instruction set during the measurement; restored afterwards."""
    held = {} if isa is None else {ISA_VARIABLE: isa}
    if isa in _ONEDNN_ISA:
        held["ONEDNN_MAX_CPU_ISA"] = _ONEDNN_ISA[isa]
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with variables(held):
            yield
    finally:
        torch.set_num_threads(before)


def _measure(chosen: dict[str, Suite], options: BenchOptions) -> dict[str, Any]:
    """Content of the result file."""
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment(),
        "settings": {
            "operator": options.operator,
            "baseline": BASELINE,
            "suites": list(chosen),
            "rounds": options.samples,
            "device": options.device,
            "threads": torch.get_num_threads(),
            "isa": options.isa,
            "quick": options.quick,
        },
    }
    with progress(sum(suite.parts(options) for suite in chosen.values())) as advance:
        for name, suite in chosen.items():
            measured = suite.run(options, advance)
            if suite.alone:
                result = measured
            else:
                result[name] = measured
    result["environment"]["load_average_after"] = environment()["load_average"]
    return result
