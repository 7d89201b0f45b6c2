"""Distinct layer geometries of networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from mulfree.bench.passes import taps
from mulfree.cost.counting import count
from mulfree.models import create_model
from mulfree.operators import get_operator
from mulfree.operators.window import ConvProblem


@dataclass(frozen=True, kw_only=True)
class BenchLayer:
    """A geometry that occurs in a network.

    Attributes:
        model: Name of the network.
        problem: The geometry, batch included.
        occurrences: How many layers of the network have it.
    """

    model: str
    problem: ConvProblem
    occurrences: int

    def to_json(self, kind: str, direction: str) -> dict[str, Any]:
        """Return the layer in a result: a kind of input and a direction of the pass."""
        return {
            "model": self.model,
            "geometry": str(self.problem),
            "window": asdict(self.problem),
            "occurrences": self.occurrences,
            "taps": taps(self.problem),
            "input": kind,
            "pass": direction,
        }


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
    found: dict[ConvProblem, int] = {}
    for layer in count(network, input_size).layers:
        module = network.get_submodule(layer.name)
        if layer.operator == operator and isinstance(module, get_operator(operator).conv):
            problem = _window(module, batch, layer.input_shape)
            found[problem] = found.get(problem, 0) + 1
    return [
        BenchLayer(model=model, problem=problem, occurrences=number)
        for problem, number in found.items()
    ]


def _window(layer: nn.Module, batch: int, input_shape: tuple[int, ...]) -> ConvProblem:
    """The geometry of a layer that has the attributes of `torch.nn.Conv2d`."""
    settings: Any = layer
    return ConvProblem(
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
