"""Forward and backward passes of an operator on the layers of real networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import geometric_mean
from typing import Any

import torch

from mulfree.bench.correctness import check
from mulfree.bench.device import clock_of, computing_in, tuned_convolutions
from mulfree.bench.layers import BenchLayer, layers_of
from mulfree.bench.passes import INPUTS, PASSES, make, operands, taps_per_s
from mulfree.bench.report import milliseconds, ratio
from mulfree.bench.suites import Advance, BenchOptions, Suite
from mulfree.bench.timing import compare, interleave
from mulfree.cost.counting import BASELINE
from mulfree.cost.table import text_table
from mulfree.operators import Operator, get_operator

_CPU = torch.device("cpu")


def option_layers(options: BenchOptions, *, first: bool = False) -> list[BenchLayer]:
    """Layers of the networks of the options, or of the first network alone."""
    layers = []
    for network in options.networks[: 1 if first else None]:
        layers += layers_of(
            network,
            options.operator,
            batch=options.batch(network),
            input_size=options.size(network),
        )
    return layers


def run(options: BenchOptions, advance: Advance) -> dict[str, Any]:
    """Time every layer; see `bench_layer`."""
    layers = option_layers(options)
    named = [(f"{layer.model} {layer.problem}", layer) for layer in layers]
    return bench_layers(named, options, advance)


def bench_layers(
    layers: Iterable[tuple[str, BenchLayer]], options: BenchOptions, advance: Advance
) -> dict[str, Any]:
    """Time layers, by the names that `advance` is called with; see `bench_layer`."""
    operator, entries = get_operator(options.operator), []
    for name, layer in layers:
        advance(name)
        entries += bench_layer(
            operator, layer, rounds=options.samples, device=torch.device(options.device)
        )
    return {"summary": summarise(entries), "layers": entries}


def bench_layer(
    operator: Operator, layer: BenchLayer, *, rounds: int, device: torch.device = _CPU
) -> list[dict[str, Any]]:
    """Check an operator on one geometry, then time it in float32 against the convolution.

    Returns:
        One entry for every kind of input and every pass, as JSON values.

    Raises:
        BenchmarkError: The operator is wrong on this geometry; nothing was timed.
    """
    problem = layer.problem
    clock = clock_of(device)
    entries = []
    for kind in INPUTS:
        tensors = operands(problem, kind, device=device)
        check(operator, problem, *tensors[:2])
        for direction in PASSES:
            candidates = {
                entry.name: make(entry, problem, direction, tensors)
                for entry in (operator, get_operator(BASELINE))
            }
            with computing_in("fp32"), tuned_convolutions():
                samples = interleave(candidates, rounds=rounds, clock=clock)
            timings = compare(samples, BASELINE)
            own = timings[operator.name]
            entries.append(
                {
                    **layer.to_json(kind, direction),
                    "timings": timings,
                    "ratio": own["ratio"],
                    "gtaps_per_s": taps_per_s(problem, direction, own["median_s"]) / 1e9,
                }
            )
    return entries


def summarise(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means of the ratios per network, input and pass, and over several networks."""
    networks = list(dict.fromkeys(entry["model"] for entry in entries))
    rows = []
    for network in [*networks, "all"] if len(networks) > 1 else networks:
        ratios: dict[tuple[str, str], list[float]] = {}
        for entry in entries:
            if network in (entry["model"], "all"):
                ratios.setdefault((entry["input"], entry["pass"]), []).append(entry["ratio"])
        rows += [
            {
                "model": network,
                "input": kind,
                "pass": direction,
                "geometries": len(values),
                "ratio": geometric_mean(values),
            }
            for (kind, direction), values in ratios.items()
        ]
    return rows


def report(operator: str, result: Mapping[str, Any]) -> str:
    """Tables of the layers and of the geometric means."""
    return "\n".join([_layers(operator, result["layers"]), _summary(result["summary"])])


def _layers(operator: str, entries: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        own = entry["timings"][operator]
        rows.append(
            [
                entry["model"],
                entry["geometry"],
                entry["input"],
                entry["pass"].replace("_", "+"),
                milliseconds(own),
                milliseconds(entry["timings"][BASELINE]),
                ratio(own),
                f"{entry['gtaps_per_s']:.1f}",
            ]
        )
    columns = ("model", "geometry", "input", "pass", operator, BASELINE, "ratio", "Gtap/s")
    return text_table("Layers: median (quartiles), ms", columns, rows, left=4)


def _summary(entries: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [
            entry["model"],
            entry["input"],
            entry["pass"].replace("_", "+"),
            str(entry["geometries"]),
            f"{entry['ratio']:.2f}",
        ]
        for entry in entries
    ]
    columns = ("model", "input", "pass", "geometries", "ratio")
    return text_table(f"Geometric means of the ratios to {BASELINE}", columns, rows, left=3)


SUITE = Suite(
    summary="""\
forward, and forward with backward, on the layers of ResNet-20 (batch 128) and
ResNet-18 (batch 8), on inputs as after a rectifier and on signed ones""",
    parts=lambda options: len(option_layers(options)),
    run=run,
    report=report,
)
