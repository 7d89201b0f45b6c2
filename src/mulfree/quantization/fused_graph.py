"""Which steps a network is made of, and how they are computed one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.func import functional_call

from mulfree.quantization.fused_ops import (
    Add,
    AnyLayer,
    Concat,
    Layer,
    MaxPool,
    Mean,
    Norm,
    Pad,
    Repeat,
    Shape,
    Step,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A network as steps.

    Attributes:
        input: Name of the value that the images become.
        shape: Its shape, C, H, W.
        steps: In an order in which they can be computed; the last makes the logits.
    """

    input: str
    shape: Shape
    steps: tuple[Step, ...]

    @property
    def classifier(self) -> Layer | None:
        """The last step where it is a layer that can leave its sums in floating point."""
        last = self.steps[-1]
        return last if isinstance(last, Layer) and last.classifies else None


class Hooks:
    """What happens to the numbers of a plan on their way. By default nothing."""

    def value(self, name: str, x: Tensor) -> Tensor:
        """The value called `name`, which has a scale of its own."""
        return x

    def apply(self, layer: Layer, module: AnyLayer, x: Tensor) -> Tensor:
        """What a layer, without all that is behind it, makes of `x`."""
        x = self.operand(layer, x)
        weight = self.weight(layer, module)
        parts = {} if weight is None else {"weight": weight}
        y: Tensor = functional_call(module, parts, (x,))
        return y

    def operand(self, layer: Layer, x: Tensor) -> Tensor:
        """What a layer reads."""
        return x

    def normalised(self, module: AnyLayer, norm: Norm, x: Tensor, y: Tensor) -> Tensor:
        """What the normalisation behind a layer makes of its result `x`, which is `y`."""
        return y

    def weight(self, layer: Layer, module: AnyLayer) -> Tensor | None:
        """What a layer computes with, or None for the weight that it has."""
        return None


def execute(plan: Plan, model: nn.Module, images: Tensor, hooks: Hooks) -> Tensor:
    """Logits `[N, classes]`, in floating point.

    Args:
        plan: The steps.
        model: The network with the modules that they name.
        images: `[N, C, H, W]`, normalised.
        hooks: Told of every number that is quantised, and may change it.
    """
    last_reader = {name: step for step in plan.steps for name in step.inputs}
    values = {plan.input: hooks.value(plan.input, images)}
    for step in plan.steps:
        x = values[step.input]
        match step:
            case Layer():
                residual = None if step.residual is None else values[step.residual]
                module = step.layer(model)
                apply = partial(hooks.apply, step, module)
                y = step.compute(model, x, residual, apply, partial(hooks.normalised, module))
            case Add() | Concat():
                y = step.compute(*(values[name] for name in step.inputs))
            case MaxPool() | Mean() | Repeat() | Pad():
                y = step.compute(x)
        if step.rescales and step is not plan.classifier:
            y = hooks.value(step.output, y)
        values[step.output] = y
        for name in set(step.inputs):
            if last_reader[name] is step:
                del values[name]
    return y.flatten(1)
