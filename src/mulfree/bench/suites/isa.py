"""Passes of an operator by each instruction set of the processor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mulfree._native import core
from mulfree.bench.correctness import check
from mulfree.bench.layers import BenchLayer
from mulfree.bench.passes import INPUTS, PASSES, make, operands, taps_per_s
from mulfree.bench.report import milliseconds
from mulfree.bench.suites import QUICK_ROUNDS, Advance, BenchOptions, Suite
from mulfree.bench.suites.operator import option_layers
from mulfree.bench.timing import compare, interleave
from mulfree.cost.table import text_table
from mulfree.environment import ISA_VARIABLE, variables
from mulfree.errors import ConfigError
from mulfree.operators import Operator, get_operator


def check_options(options: BenchOptions) -> None:
    """Refuse a device without instruction sets, and a single instruction set.

    Raises:
        ConfigError: The device is a GPU, or an instruction set is forced.
    """
    if options.device != "cpu":
        raise ConfigError("bench: `--device` must be cpu for instruction sets, got cuda")
    if options.isa is not None:
        raise ConfigError("bench: `--isa` must be left out of the comparison of instruction sets")


def run(options: BenchOptions, advance: Advance) -> list[dict[str, Any]]:
    """Time the layers of the first network; see `bench_isas`."""
    operator, isas = get_operator(options.operator), core().supported_isas()
    entries = []
    for layer in option_layers(options, first=True):
        advance(f"{layer.problem} by instruction set")
        entries += bench_isas(operator, layer, isas, rounds=min(options.samples, QUICK_ROUNDS))
    return entries


def bench_isas(
    operator: Operator, layer: BenchLayer, isas: Sequence[str], *, rounds: int
) -> list[dict[str, Any]]:
    """Time an operator's native kernels for several instruction sets on one geometry.

    Returns:
        One entry for every pass, as JSON values.

    Raises:
        BenchmarkError: One of them is wrong on this geometry; nothing was timed.
    """
    problem = layer.problem
    tensors = operands(problem, INPUTS[0])
    for isa in isas:
        _with_isa(isa, lambda: check(operator, problem, *tensors[:2]))()
    entries = []
    for direction in PASSES:
        run = make(operator, problem, direction, tensors)
        candidates = {isa: _with_isa(isa, run) for isa in isas}
        timings = compare(interleave(candidates, rounds=rounds), isas[0])
        entries.append(
            {
                "model": layer.model,
                "geometry": str(problem),
                "window": asdict(problem),
                "pass": direction,
                "timings": timings,
                "gtaps_per_s": {
                    isa: taps_per_s(problem, direction, timing["median_s"]) / 1e9
                    for isa, timing in timings.items()
                },
            }
        )
    return entries


def _with_isa(isa: str, run: Callable[[], object]) -> Callable[[], object]:
    """`run` with the native kernels held to an instruction set; restored after every call."""

    def held() -> None:
        with variables({ISA_VARIABLE: isa}):
            run()

    return held


def report(operator: str, entries: Iterable[Mapping[str, Any]]) -> str:
    """Table of the times."""
    rows = []
    for entry in entries:
        for isa, timing in entry["timings"].items():
            rows.append(
                [
                    entry["model"],
                    entry["geometry"],
                    entry["pass"].replace("_", "+"),
                    isa,
                    milliseconds(timing),
                    f"{entry['gtaps_per_s'][isa]:.1f}",
                ]
            )
    columns = ("model", "geometry", "pass", "isa", "time", "Gtap/s")
    return text_table("Instruction sets: median (quartiles), ms", columns, rows, left=4)


SUITE = Suite(
    summary="the same passes by each instruction set of this processor, layers of ResNet-20",
    parts=lambda options: len(option_layers(options, first=True)),
    run=run,
    report=report,
    check=check_options,
)
