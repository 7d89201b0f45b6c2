"""Time an operator against the convolution on the layers of real networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from mulfree.bench.correctness import check
from mulfree.bench.device import clock_of, computing_in, tuned_convolutions
from mulfree.bench.passes import INPUTS, PASSES, make, operands, taps, taps_per_s
from mulfree.bench.timing import compare, geometric_mean, interleave
from mulfree.cost.counting import BASELINE, count
from mulfree.environment import ISA_VARIABLE, variables
from mulfree.models import create_model
from mulfree.operators import Operator, get_operator
from mulfree.operators.window import Window

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class BenchLayer:
    """A geometry that occurs in a network.

    Attributes:
        model: Name of the network.
        window: The geometry, batch included.
        occurrences: How many layers of the network have it.
    """

    model: str
    window: Window
    occurrences: int


def layers_of(
    model: str, operator: str, *, batch: int, input_size: Sequence[int]
) -> list[BenchLayer]:
    """The distinct geometries of the layers of a network that run an operator.

    Args:
        model: Name for `create_model`.
        operator: Operator of the network; layers that stay convolutions are left out.
        batch: Images in a batch.
        input_size: Shape of one image.
    """
    network = create_model(model, operator=operator, in_channels=input_size[0])
    found: dict[Window, int] = {}
    for layer in count(network, input_size).layers:
        module = network.get_submodule(layer.name)
        if layer.operator == operator and isinstance(module, get_operator(operator).conv):
            window = _window(module, batch, layer.input_shape)
            found[window] = found.get(window, 0) + 1
    return [
        BenchLayer(model=model, window=window, occurrences=number)
        for window, number in found.items()
    ]


def bench_layer(
    operator: Operator, layer: BenchLayer, *, rounds: int, device: torch.device = _CPU
) -> list[dict[str, Any]]:
    """Check an operator on one geometry, then time it in float32 against the convolution.

    Returns:
        One entry for every kind of input and every pass, as JSON values.

    Raises:
        BenchmarkError: The operator is wrong on this geometry; nothing was timed.
    """
    window = layer.window
    clock = clock_of(device)
    entries = []
    for kind in INPUTS:
        tensors = operands(window, kind, device=device)
        check(operator, window, *tensors[:2])
        for direction in PASSES:
            candidates = {
                entry.name: make(entry, window, direction, tensors)
                for entry in (operator, get_operator(BASELINE))
            }
            with computing_in("fp32"), tuned_convolutions():
                samples = interleave(candidates, rounds=rounds, clock=clock)
            timings = compare(samples, BASELINE)
            entries.append(
                {
                    "model": layer.model,
                    "geometry": str(window),
                    "window": asdict(window),
                    "occurrences": layer.occurrences,
                    "taps": taps(window),
                    "input": kind,
                    "pass": direction,
                    "timings": timings,
                    "ratio": timings[operator.name]["ratio"],
                    "gtaps_per_s": _gtaps_per_s(window, direction, timings[operator.name]),
                }
            )
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
    window = layer.window
    tensors = operands(window, INPUTS[0])
    for isa in isas:
        _with_isa(isa, lambda: check(operator, window, *tensors[:2]))()
    entries = []
    for direction in PASSES:
        run = make(operator, window, direction, tensors)
        candidates = {isa: _with_isa(isa, run) for isa in isas}
        timings = compare(interleave(candidates, rounds=rounds), isas[0])
        entries.append(
            {
                "model": layer.model,
                "geometry": str(window),
                "window": asdict(window),
                "pass": direction,
                "timings": timings,
                "gtaps_per_s": {isa: _gtaps_per_s(window, direction, timings[isa]) for isa in isas},
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


def _window(layer: nn.Module, batch: int, input_shape: tuple[int, ...]) -> Window:
    """The geometry of a layer that has the attributes of `torch.nn.Conv2d`."""
    settings: Any = layer
    return Window(
        batch=batch,
        in_channels=settings.in_channels,
        out_channels=settings.out_channels,
        size=(input_shape[2], input_shape[3]),
        kernel=settings.kernel_size,
        stride=settings.stride,
        padding=settings.padding,
        dilation=settings.dilation,
        groups=settings.groups,
    )


def _gtaps_per_s(window: Window, direction: str, timing: Mapping[str, float]) -> float:
    return taps_per_s(window, direction, timing["median_s"]) / 1e9


def _with_isa(isa: str, run: Callable[[], object]) -> Callable[[], object]:
    """`run` with the native kernels held to an instruction set; restored after every call."""

    def held() -> None:
        with variables({ISA_VARIABLE: isa}):
            run()

    return held
