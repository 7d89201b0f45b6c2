"""The integer network of a plan: weights, factors and offsets as integers, nodes of a graph.

Every number of a node is worked out in real numbers first, in steps of the value that it makes, and
then made an integer by `fixed_point`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mulfree import runtime
from mulfree.errors import ConfigError
from mulfree.operators.window import Pair, Sliding, resolve_padding
from mulfree.quantization.fixed_point import Reals, fixed_point
from mulfree.quantization.folding import Folded, fold, norm_of
from mulfree.quantization.fused_ops import (
    ADDER,
    LINEAR,
    Add,
    AnyLayer,
    Concat,
    Layer,
    MaxPool,
    Mean,
    Pad,
    Repeat,
    Shape,
    Step,
)
from mulfree.quantization.preprocessing import Pictures
from mulfree.quantization.qparams import Grid, Layout
from mulfree.runtime import graph as nodes


def lower(
    name: str,
    layout: Layout,
    model: nn.Module,
    grids: Mapping[str, Grid],
    pictures: Pictures,
    *,
    shift_only: bool = False,
) -> runtime.Graph:
    """The integer network.

    Args:
        name: What to call it.
        layout: Which integers are where.
        model: Weights and statistics.
        grids: Every grid of the layout.
        pictures: How the images are made.
        shift_only: Round every factor to a power of two.

    Raises:
        ConfigError: A factor is too large for the integers.
    """
    return _Lowering(layout, model, grids, shift_only).graph(name, pictures)


class _Lowering:
    """Makes the nodes of the steps, in order."""

    def __init__(
        self,
        layout: Layout,
        model: nn.Module,
        grids: Mapping[str, Grid],
        shift_only: bool,
    ) -> None:
        self._layout = layout
        self._plan = layout.plan
        self._model = model
        self._grids = grids
        self._shift_only = shift_only
        self._values: dict[str, nodes.Value] = {}
        self._nodes: list[nodes.Node] = []
        # Borders that the layer that reads them makes itself.
        self._merged: dict[str, Pad] = {}

    def graph(self, name: str, pictures: Pictures) -> runtime.Graph:
        """The whole network."""
        plan = self._plan
        self._declare(plan.input, plan.shape, self._grids[plan.input])
        for step in plan.steps:
            match step:
                case Layer() if step is plan.classifier:
                    self._classifier(step)
                case Layer():
                    self._layer(step)
                case Pad() if self._can_merge(step):
                    self._merged[step.output] = step
                case _:
                    self._other(step)
        if plan.classifier is None:
            self._leave(plan.steps[-1])
        return runtime.Graph(
            name=name,
            input=_input(self._values[plan.input], pictures),
            values=tuple(self._values.values()),
            nodes=tuple(self._nodes),
            classes=pictures.classes,
        )

    def _declare(self, name: str, shape: Shape, grid: Grid) -> str:
        self._values[name] = nodes.Value(name=name, shape=shape, scale=grid.scale, zero=grid.zero)
        return name

    def _grid(self, value: str) -> Grid:
        return self._grids[self._layout.roots[value]]

    def _operand(self, layer: Layer) -> Grid:
        """The grid of what a layer reads."""
        return self._grids[self._layout.operand(layer)]

    def _named(self, name: str) -> str:
        """`name`, with a number behind it if a node has it already, as a layer used twice."""
        taken = {node.name for node in self._nodes}
        numbered = (f"{name}.{number}" for number in itertools.count(2))
        return next(n for n in itertools.chain([name], numbered) if n not in taken)

    # --- what is not a layer ----------------------------------------------------------------------

    def _other(self, step: Step) -> None:
        source, target = self._grid(step.input), self._grid(step.output)
        common: dict[str, Any] = {
            "name": self._named(step.path),
            "input": step.input,
            "output": self._declare(step.output, step.shape, target),
        }
        match step:
            case MaxPool():
                minimum = np.zeros(step.shape[0], np.uint8)
                self._nodes.append(nodes.MaxPool(**common, **vars(step.window), minimum=minimum))
            case Repeat():
                self._nodes.append(nodes.Repeat(**common, factor=step.factor))
            case Pad():
                self._nodes.append(nodes.Pad(**(common | _border(step.border))))
            case Mean():
                taps = math.prod(step.kernel)
                factor = source.scale / (taps * target.scale)
                offset = target.zero - factor * taps * source.zero
                fixed = fixed_point([factor], [taps * 255], offset, step.path)
                self._nodes.append(
                    nodes.Mean(
                        **common,
                        kernel=step.kernel,
                        stride=step.stride,
                        multiplier=int(fixed.factors[0]),
                        offset=int(fixed.offset),
                        shift=fixed.shift,
                        low=0,
                        high=target.top,
                    )
                )
            case Add():
                other = self._grid(step.other)
                factors = [
                    self._factor(step, factor) * grid.scale / target.scale
                    for factor, grid in zip(step.factors, (source, other), strict=True)
                ]
                offset = target.zero - factors[0] * source.zero - factors[1] * other.zero
                fixed = fixed_point(factors, [255, 255], offset, step.path)
                self._nodes.append(
                    nodes.Add(
                        **common,
                        other=step.other,
                        multiplier=int(fixed.factors[0]),
                        other_multiplier=int(fixed.factors[1]),
                        offset=int(fixed.offset),
                        shift=fixed.shift,
                        low=target.zero if step.relu else 0,
                        high=_highest(step, target),
                    )
                )
            case Concat():
                names = [
                    name
                    if self._grid(name) == target
                    else self._copy(name, f"{name}.{step.output}", target)
                    for name in step.inputs
                ]
                order = np.arange(step.shape[0], dtype=np.int32)
                common |= {"input": names[0], "others": tuple(names[1:]), "order": order}
                self._nodes.append(nodes.Concat(**common))

    def _factor(self, step: Layer | Add, factor: float) -> float:
        """A factor of a sum, which shifts alone must be able to multiply by."""
        if self._shift_only and math.frexp(abs(factor))[0] not in (0.0, 0.5):
            raise ConfigError(
                "quantize: `shift_only` must be False where a sum has a factor that is no power of "
                f"two, got True with {factor} at {step.path}"
            )
        return factor

    def _can_merge(self, pad: Pad) -> bool:
        """Whether a border can be the padding of the layer that alone reads it."""
        left, right, top, bottom = pad.border
        readers = [step for step in self._plan.steps if pad.output in step.inputs]
        if len(readers) != 1 or (left, top) != (right, bottom):
            return False
        reader = readers[0]
        if not isinstance(reader, Layer) or reader is self._plan.classifier:
            return False
        module = reader.layer(self._model)
        if isinstance(module, LINEAR) or module.padding not in ((0, 0), "valid"):
            return False
        return top < module.kernel_size[0] and left < module.kernel_size[1]

    # --- layers -----------------------------------------------------------------------------------

    def _layer(self, step: Layer) -> None:
        module = step.layer(self._model)
        target = self._grid(step.output)
        filters = self._folded(step, module, target.scale)
        factor, offset = filters.factor, filters.offset + target.zero
        factors: list[Reals | float] = [factor]
        largest = [filters.largest]
        if step.residual is not None:
            residual = self._grid(step.residual)
            factors.append(self._factor(step, step.residual_factor) * residual.scale / target.scale)
            largest.append(255)
            offset = offset - factors[1] * residual.zero
        fixed = fixed_point(factors, largest, offset, step.path)
        kind: Any = nodes.Adder2d if isinstance(module, ADDER) else nodes.Conv2d
        self._nodes.append(
            kind(
                **self._windows(step, module, filters.weight),
                multiplier=fixed.factors[0],
                offset=fixed.offset,
                shift=fixed.shift,
                residual=step.residual,
                residual_multiplier=int(fixed.factors[1]) if step.residual else 0,
            )
        )
        self._pool(step, factor < 0)

    def _windows(self, step: Layer, module: AnyLayer, weight: NDArray[Any]) -> dict[str, Any]:
        """What the nodes of all layers have; the value that such a node makes is declared."""
        target = self._grid(step.output)
        source, stride, padding = self._source(step, module)
        rows, columns = Sliding(stride, padding).output_hw(
            self._values[source].shape[1:], (weight.shape[1], weight.shape[2])
        )
        return {
            "name": self._named(step.path),
            "input": source,
            "output": self._declare(_unpooled(step), (len(weight), rows, columns), target),
            "weight": weight,
            "low": target.zero if step.relu else 0,
            "high": _highest(step, target),
            "stride": stride,
            "padding": padding,
            "groups": getattr(module, "groups", 1),
        }

    def _pool(self, step: Layer, flips: NDArray[np.bool_]) -> None:
        """The maximum of a layer's sums, which is the least integer where a factor flips them."""
        if step.pool is None:
            return
        self._nodes.append(
            nodes.MaxPool(
                name=self._named(f"{step.path}.pool"),
                input=_unpooled(step),
                output=self._declare(step.output, step.shape, self._grid(step.output)),
                **vars(step.pool),
                minimum=flips.astype(np.uint8),
            )
        )

    def _source(self, step: Layer, module: AnyLayer) -> tuple[str, Pair, Pair]:
        """Value that a layer reads, its stride and its padding."""
        merged = self._merged.get(step.input)
        source = self._merged_source(step)
        if self._layout.operand(step) not in self._layout.roots:
            source = self._copy(source, f"{source}.copy", self._operand(step))
        if isinstance(module, LINEAR):
            return source, (1, 1), (0, 0)
        kernel, stride = _pair(module.kernel_size), _pair(module.stride)
        given: Any = module.padding
        padding, uneven = resolve_padding(step.path, given, kernel, stride, _pair(module.dilation))
        if merged is not None:
            padding = (merged.border[2], merged.border[0])
        if uneven is None and all(p < k for p, k in zip(padding, kernel, strict=True)):
            return source, stride, padding
        even = (padding[1], padding[1], padding[0], padding[0])
        border = [one + other for one, other in zip(even, uneven or (0,) * 4, strict=True)]
        return self._padded(source, self._operand(step), border), stride, (0, 0)

    def _merged_source(self, step: Layer) -> str:
        merged = self._merged.get(step.input)
        return step.input if merged is None else merged.input

    def _copy(self, source: str, name: str, target: Grid) -> str:
        """The value on another grid."""
        if name not in self._values:
            value = self._values[source]
            reals = value.scale * (np.arange(256.0) - value.zero)
            row = np.floor(reals / target.scale + target.zero + 0.5).clip(0, target.top)
            table = np.tile(row.astype(np.uint8), (value.shape[0], 1))
            self._declare(name, value.shape, target)
            self._nodes.append(nodes.Lut(name=name, input=source, output=name, table=table))
        return name

    def _padded(self, source: str, grid: Grid, border: Sequence[int]) -> str:
        left, right, top, bottom = border
        name = self._named(f"{source}.padded")
        pad: dict[str, Any] = {"name": name, "input": source, "output": name, **_border(border)}
        channels, rows, columns = self._values[source].shape
        shape = (channels, rows + top + bottom, columns + left + right)
        self._declare(name, shape, grid)
        self._nodes.append(nodes.Pad(**pad))
        return name

    # --- logits -----------------------------------------------------------------------------------

    def _classifier(self, step: Layer) -> None:
        """The layer that makes the logits, with its normalisation, left in floating point."""
        folded = self._folded(step, step.layer(self._model), None)
        weight = folded.weight.reshape(len(folded.weight), -1)
        self._logits(step.path, step.input, weight, folded.factor, folded.offset)

    def _folded(self, step: Layer, module: AnyLayer, scale: float | None) -> Folded:
        """A layer and its normalisation; for logits, which have no scale, in real numbers."""
        return fold(
            module,
            norm_of(self._model, step),
            self._operand(step),
            map_shape=self._values[self._merged_source(step)].shape,
            bits=self._layout.weight_bits(step),
            scale=scale,
            shift_only=self._shift_only,
        )

    def _leave(self, last: Step) -> None:
        """Logits that were quantised as any other value."""
        grid, count = self._grid(last.output), last.shape[0]
        scale = np.full(count, grid.scale)
        self._logits("logits", last.output, np.eye(count), scale, scale * -grid.zero)

    def _logits(
        self, name: str, source: str, weight: NDArray[Any], scale: Reals, bias: Reals
    ) -> None:
        self._nodes.append(
            nodes.Linear(
                name=self._named(name),
                input=source,
                weight=weight.astype(np.int8),
                scale=scale.astype(np.float32),
                bias=bias.astype(np.float32),
            )
        )


def _highest(step: Layer | Add, grid: Grid) -> int:
    """The greatest integer of what a step makes."""
    if step.ceiling is None:
        return grid.top
    return min(grid.top, grid.zero + round(step.ceiling / grid.scale))


def _unpooled(step: Layer) -> str:
    """Name of what a layer makes before its maximum is taken."""
    return step.output if step.pool is None else f"{step.output}.unpooled"


def _input(value: nodes.Value, pictures: Pictures) -> nodes.Input:
    pixels = np.arange(256) / 255
    mean, std = (np.array(row)[:, None] for row in (pictures.mean, pictures.std))
    steps = np.rint((pixels - mean) / std / value.scale) + value.zero
    return nodes.Input(
        value=value.name,
        table=np.ascontiguousarray(steps.clip(0, 255).astype(np.uint8)),
        mean=pictures.mean,
        std=pictures.std,
        resize=pictures.resize,
    )


def _border(border: Sequence[int]) -> dict[str, int]:
    return dict(zip(("left", "right", "top", "bottom"), border, strict=True))


def _pair(value: tuple[int, ...]) -> Pair:
    rows, columns = value
    return rows, columns
