"""What is measured on a GPU, in order of importance: against cuDNN's convolution and the limit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from benchmarks.gpu.epoch import cifar10, time_epoch
from benchmarks.gpu.layers import time_layer
from benchmarks.gpu.schedule import Entries, one_line

from mulfree.bench.device import Precision
from mulfree.bench.layers import BenchLayer, layers_of
from mulfree.bench.passes import ALL_PASSES, taps
from mulfree.bench.steps import Mode, StepOptions, bench_step, step_memory
from mulfree.cost.counting import BASELINE
from mulfree.operators import get_operator


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that is measured.

    Attributes:
        name: Name for `create_model`.
        batch: Images in a batch.
        image_size: Side of an image.
    """

    name: str
    batch: int
    image_size: int

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return (3, self.image_size, self.image_size)


# The networks that targets are about come first.
NETWORKS = (
    Network(name="resnet20", batch=256, image_size=32),
    Network(name="resnet50", batch=64, image_size=224),
    Network(name="resnet18", batch=64, image_size=224),
    Network(name="vgg_small", batch=256, image_size=32),
    Network(name="efficientnet_b0", batch=64, image_size=224),
)


@dataclass(frozen=True, kw_only=True)
class GpuBench:
    """The measurements of one operator on one device.

    Attributes:
        operator: Name of the operator.
        device: Where.
        networks: What it is measured on.
        limit: Taps a second that the device can do in float32 at most, if that is known.
        rounds: Samples of each function.
    """

    operator: str
    device: torch.device
    networks: Sequence[Network]
    limit: float | None = None
    rounds: int = 7

    def parts(self) -> dict[str, Entries]:
        """Every measurement, the most important first.

        What needs a compiler comes late: it takes minutes, and says less than what comes before.
        """
        first, others = self.networks[:2], self.networks[2:]
        uncompiled: tuple[Mode, ...] = ("graph", "eager")
        compiled: tuple[Mode, ...] = ("compile", "reduce-overhead")
        return {
            "rates": self._rates,
            "forward": lambda: self._layers(("forward",), ("fp32",), _most_taps),
            "steps": lambda: self._steps(first, ("fp32",), uncompiled),
            "memory": self._memory,
            "epoch": self._epochs,
            "steps of other networks and formats": lambda: itertools.chain(
                self._steps(others, ("fp32",), uncompiled[:1]),
                self._steps(self.networks, ("bf16", "tf32"), uncompiled[:1]),
            ),
            "compiled steps": lambda: self._steps(first[:1], ("fp32", "bf16"), compiled),
            "layers": lambda: self._layers(ALL_PASSES, ("fp32", "bf16"), _most_taps),
            "layers in other formats": lambda: self._layers(
                ALL_PASSES, ("tf32", "fp16"), _most_taps
            ),
            "compiled steps of other networks": lambda: self._steps(
                self.networks[1:], ("fp32", "bf16"), compiled[:1]
            ),
        }

    def _rates(self) -> Iterator[dict[str, Any]]:
        # Not where this is imported: a machine without Triton measures the rest.
        from benchmarks.gpu.rates import measure_rates

        yield from measure_rates(self.device)

    def _layers(
        self,
        passes: Sequence[str],
        precisions: Sequence[Precision],
        order: Callable[[BenchLayer], int],
    ) -> Iterator[dict[str, Any]]:
        operator = get_operator(self.operator)
        per_network = [
            sorted(
                layers_of(
                    network.name,
                    self.operator,
                    batch=network.batch,
                    input_size=network.input_size,
                ),
                key=order,
            )
            for network in self.networks
        ]
        # In turns, so that every network has something when the time is over.
        turns = itertools.chain.from_iterable(itertools.zip_longest(*per_network))
        for layer in filter(None, turns):
            try:
                yield from time_layer(
                    operator,
                    layer,
                    passes=passes,
                    precisions=precisions,
                    device=self.device,
                    rounds=self.rounds,
                    limit=self.limit,
                )
            except Exception as error:
                yield {
                    "model": layer.model,
                    "geometry": str(layer.problem),
                    "error": one_line(error),
                }
            self._clean()

    def _steps(
        self,
        networks: Sequence[Network],
        precisions: Sequence[Precision],
        modes: Sequence[Mode],
    ) -> Iterator[dict[str, Any]]:
        for precision, network, mode in itertools.product(precisions, networks, modes):
            options = StepOptions(device=self.device, precision=precision, mode=mode)
            yield self._attempt(
                {"model": network.name, "precision": precision, "mode": mode},
                partial(
                    bench_step,
                    network.name,
                    self.operator,
                    batch=network.batch,
                    input_size=network.input_size,
                    rounds=self.rounds,
                    options=options,
                    both_layouts=True,
                ),
            )

    def _memory(self) -> Iterator[dict[str, Any]]:
        formats: tuple[Precision, ...] = ("fp32", "bf16")
        for precision, network in itertools.product(formats, self.networks):
            yield self._attempt(
                {"model": network.name, "batch": network.batch, "precision": precision},
                partial(self._compare_memory, network, precision),
            )

    def _compare_memory(self, network: Network, precision: Precision) -> dict[str, Any]:
        entry: dict[str, Any] = {
            name: step_memory(
                network.name,
                name,
                batch=network.batch,
                input_size=network.input_size,
                options=StepOptions(device=self.device, precision=precision),
            )
            for name in (self.operator, BASELINE)
        }
        return entry | {"ratio": entry[self.operator]["added"] / max(1, entry[BASELINE]["added"])}

    def _epochs(self) -> Iterator[dict[str, Any]]:
        network = self.networks[0]
        source, splits = cifar10()
        formats: tuple[Precision, ...] = ("fp32", "bf16", "tf32")
        modes: tuple[Mode, ...] = ("graph", "eager")
        for mode, precision, name in itertools.product(modes, formats, (self.operator, BASELINE)):
            options = StepOptions(device=self.device, precision=precision, mode=mode)
            yield self._attempt(
                {
                    "model": network.name,
                    "operator": name,
                    "batch": network.batch,
                    "precision": precision,
                    "mode": mode,
                    "images": source,
                },
                partial(
                    time_epoch,
                    network.name,
                    name,
                    splits,
                    batch=network.batch,
                    options=options,
                ),
            )

    def _attempt(
        self, what: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """`what` with its measurement, or with the `error` that prevented it."""
        try:
            return {**what, **measure()}
        # Out of memory, a compiler's bug: what comes after it may still be measured.
        except Exception as error:
            return {**what, "error": one_line(error)}
        finally:
            self._clean()

    def _clean(self) -> None:
        # Compiled code of the networks before counts towards torch's limit on recompilations.
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _most_taps(layer: BenchLayer) -> int:
    """Sort key: geometries with most of a network's work first, 3x3 before 1x1."""
    large = layer.problem.kernel != (1, 1)
    return -taps(layer.problem) * layer.occurrences - (10**15 if large else 0)
