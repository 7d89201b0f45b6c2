"""From the operations of a model to the steps of its integer network."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import fx, nn

from mulfree.errors import ConfigError
from mulfree.operators.window import pair
from mulfree.quantization.fused_graph import Plan
from mulfree.quantization.fused_ops import (
    ADDER,
    LAYERS,
    LINEAR,
    NORMS,
    Add,
    AnyLayer,
    Concat,
    Layer,
    MaxPool,
    Mean,
    Norm,
    Pad,
    Pair,
    Repeat,
    Shape,
    Step,
    Window,
)
from mulfree.quantization.spellings import NUMPY, SUMS, multiple, source_of, spelled
from mulfree.quantization.trace import place, trace

# Nothing happens in them to the numbers of a network in evaluation, nor to their order.
_NOTHING = (nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten)
_JOINS = (torch.cat, torch.concat, torch.concatenate)
_ALONE = "compute with tensors of the network alone"
_UNKNOWN = "be made of what can be quantised"


def make_plan(model: nn.Module, shape: Shape) -> Plan:
    """The steps of `model` for images of `shape` `(C, H, W)`.

    Known are layers of the operators conv2d and adder2d, batch normalisation behind a layer (a
    maximum may lie between), ReLU, also one with a ceiling, sums of multiples of two values,
    channels of values behind one another, maximum and average pooling with equal windows, borders
    of zeros, and enlargement by repeating pixels; as modules, functions and methods.

    Raises:
        ConfigError: The model has something else in it, which is named.
    """
    return _Grouping(model, trace(model, shape)).plan()


def _refuse(where: fx.Node | str, requirement: str, got: object) -> NoReturn:
    path = where if isinstance(where, str) else place(where)
    raise ConfigError(f"quantize: `model` must {requirement}, got {got} at {path}")


class _Grouping:
    """Goes through the operations once, in order, and puts them into steps.

    A step is open as long as a next operation may become a part of it, and closed when its value is
    read by anything else.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self._model = model
        self._graph = graph
        self._steps: list[Step] = []
        self._open: dict[fx.Node, Layer | Add] = {}
        self._values: dict[fx.Node, str] = {}
        self._shapes: dict[str, Shape] = {}

    def plan(self) -> Plan:
        """The steps of all operations."""
        images, *operations, end = self._graph.nodes
        self._values[images] = images.name
        self._shapes[images.name] = images.meta["shape"]
        for node in operations:
            self._operation(node)
        (result,) = end.args
        if not isinstance(result, fx.Node):
            _refuse(
                "its end",
                "return one tensor, the logits",
                type(result).__name__.removeprefix("immutable_"),
            )
        last = self._value(result, "its end")
        if last != (self._steps[-1].output if self._steps else None):
            _refuse("its end", "make its logits by its last layer", f"the value of {result}")
        if self._shapes[last][1:] != (1, 1):
            _refuse("its end", "return one number per class", f"maps {self._shapes[last]}")
        self._steps[-1] = self._classifier(self._steps[-1])
        return Plan(input=images.name, shape=self._shapes[images.name], steps=tuple(self._steps))

    # --- values -----------------------------------------------------------------------------------

    def _value(self, node: object, where: fx.Node | str) -> str:
        """Name of the value of an operation, whose step is closed if it was open."""
        if not isinstance(node, fx.Node):
            _refuse(where, _ALONE, repr(node))
        step = self._open.pop(node, None)
        if step is not None:
            self._close(node, step)
        self._check_known(node, where)
        return self._values[node]

    def _check_known(self, node: fx.Node, where: fx.Node | str) -> None:
        """Refuses what is no value, open or not, as parameters and multiples."""
        if node not in self._values and node not in self._open:
            known = _ALONE if multiple(node) is None else "read multiples in sums alone"
            _refuse(where, known, place(node))

    def _shape(self, node: fx.Node) -> Shape:
        """C, H, W of what an operation makes, however its result is viewed."""
        step = self._open.get(node)
        return self._shapes[self._values[node]] if step is None else step.shape

    def _map(self, node: fx.Node, where: fx.Node) -> str:
        """As `_value`, of an operation whose result is still `[N, C, H, W]`."""
        name = self._value(node, where)
        if node.meta["shape"] != self._shapes[name]:
            _refuse(where, "read a map [C, H, W] there", list(node.meta["shape"]))
        return name

    def _close(self, node: fx.Node, step: Step) -> None:
        self._steps.append(replace(step, output=node.name))
        self._values[node] = node.name
        self._shapes[node.name] = step.shape

    def _growing(self, node: object) -> Layer | Add | None:
        """The open step of an operation that has one reader."""
        if isinstance(node, fx.Node) and len(node.users) == 1:
            return self._open.get(node)
        return None

    def _grow(self, source: fx.Node, node: fx.Node, **parts: Any) -> None:
        self._open[node] = replace(self._open.pop(source), **parts)

    # --- operations -------------------------------------------------------------------------------

    def _operation(self, node: fx.Node) -> None:
        target: Any = node.target
        if node.op == "get_attr":
            return  # what reads it is named
        if target in SUMS:
            return self._sum(node)
        if target in _JOINS:
            return self._join(node)
        if multiple(node) is not None:
            return self._multiple(node)
        module, source = self._module(node), source_of(node)
        if module is None:
            raise ConfigError(f"quantize: `model` must {_UNKNOWN}, got {place(node)}")
        if not isinstance(source, fx.Node):
            _refuse(node, _ALONE, repr(source))
        self._check_known(source, node)
        growing = self._growing(source)
        # A layer whose result may still be pooled and normalised.
        layer = growing if isinstance(growing, Layer) and not growing.norm else None
        if layer is not None and (layer.relu or layer.residual):
            layer = None
        match module:
            case _ if isinstance(module, LAYERS):
                self._layer(node, source, module)
            case _ if isinstance(module, NORMS):
                self._norm(node, source, layer, module)
            case nn.ReLU():
                self._rectifier(node, source, None)
            case nn.Hardtanh() if module.min_val == 0:
                self._rectifier(node, source, float(module.max_val))
            case nn.MaxPool2d():
                window = self._window(module, node)
                if layer and not layer.pool and self._is_grown(node):
                    self._map_shape(node, source)
                    self._grow(source, node, pool=window, shape=node.meta["shape"])
                else:
                    self._add_step(MaxPool, node, source, window=window)
            case nn.AvgPool2d():
                self._average(node, source, module)
            case nn.AdaptiveAvgPool2d():
                self._adaptive(node, source)
            case nn.Upsample():
                self._enlargement(node, source, module)
            case nn.ConstantPad2d():
                self._pad(node, source, module)
            case _ if isinstance(module, _NOTHING):
                self._nothing(node, source)
            case _:
                _refuse(node, _UNKNOWN, _class_of(module))
        return None

    def _module(self, node: fx.Node) -> nn.Module | None:
        if node.op == "call_module":
            return self._model.get_submodule(str(node.target))
        return spelled(node)

    def _is_grown(self, node: fx.Node) -> bool:
        """Whether a normalisation or a ReLU, with which a maximum can be exchanged, follows."""
        kinds = (*NORMS, nn.ReLU)
        return [isinstance(self._module(user), kinds) for user in node.users] == [True]

    def _map_shape(self, node: fx.Node, source: fx.Node) -> None:
        if source.meta["shape"] != self._shape(source):
            _refuse(node, "read a map [C, H, W] there", list(source.meta["shape"]))

    def _add_step(self, kind: Any, node: fx.Node, source: fx.Node, **parts: Any) -> None:
        value = self._map(source, node)
        self._close(node, self._new(kind, node, value, **parts))

    def _new(self, kind: Any, node: fx.Node, value: str, **parts: Any) -> Any:
        """A step that begins with an operation."""
        path = str(node.target) if node.op == "call_module" else node.name
        shape = (*node.meta["shape"], 1, 1)[:3]
        return kind(output="", shape=shape, input=value, path=path, **parts)

    def _nothing(self, node: fx.Node, source: fx.Node) -> None:
        if math.prod(node.meta["shape"]) != math.prod(source.meta["shape"]):
            _refuse(node, "leave images apart from one another", "another number of elements")
        if self._growing(source) is not None:
            self._grow(source, node)
        else:
            self._values[node] = self._value(source, node)

    def _layer(self, node: fx.Node, source: fx.Node, module: AnyLayer) -> None:
        if isinstance(module, LINEAR):
            value = self._value(source, node)
            if len(source.meta["shape"]) != 1:
                _refuse(node, "flatten what a linear layer reads", list(source.meta["shape"]))
        else:
            value = self._map(source, node)
            if any(
                d > 1 and k > 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)
            ):
                _refuse(node, "have no dilated layers", f"dilation {module.dilation}")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            _refuse(node, "pad with zeros", f"padding_mode {module.padding_mode!r}")
        if isinstance(module, ADDER) and module.norm != 1.0:
            _refuse(node, "have plain adder layers (norm 1)", f"norm {module.norm}")
        self._open[node] = self._new(Layer, node, value, module=str(node.target))

    def _norm(self, node: fx.Node, source: fx.Node, layer: Layer | None, module: Norm) -> None:
        if layer is None or module.running_var is None:
            _refuse(node, "normalise the result of a layer, by running statistics", module)
        flat = isinstance(layer.layer(self._model), LINEAR)
        if source.meta["shape"] != (layer.shape[:1] if flat else layer.shape):
            _refuse(node, "normalise the filters of a layer", list(source.meta["shape"]))
        self._grow(source, node, norm=str(node.target))

    def _rectifier(self, node: fx.Node, source: fx.Node, ceiling: float | None) -> None:
        growing = self._growing(source)
        if growing is None:
            _refuse(node, "have a ReLU only behind a layer or a sum", "one")
        ceilings = [number for number in (growing.ceiling, ceiling) if number is not None]
        self._grow(source, node, relu=True, ceiling=min(ceilings, default=None))

    def _operands(self, node: fx.Node) -> list[tuple[object, float]]:
        """Terms of a sum, with factors."""
        given = dict(node.kwargs)
        one = source_of(node)
        other = node.args[1] if len(node.args) > 1 else given.get("other")
        alpha = given.get("alpha", 1)
        if set(given) - {"input", "other", "alpha"} or not isinstance(alpha, (int, float)):
            _refuse(node, _UNKNOWN, f"arguments {', '.join(given)}")
        return [_multiplied(one, 1.0), _multiplied(other, SUMS[node.target] * alpha)]

    def _sum(self, node: fx.Node) -> None:
        (one, first), (other, second) = operands = self._operands(node)
        # A layer's own factors are those of its normalisation.
        multiplied = [multiple(user) is not None for user in node.users] == [True]
        for (grown, one_factor), (residual, factor) in (operands, operands[::-1]):
            step = self._growing(grown)
            whole = isinstance(step, Layer) and not step.relu and not step.residual
            if whole and one_factor == 1.0 and one is not other and not multiplied:
                assert isinstance(grown, fx.Node)
                value = self._value(residual, node)
                self._grow(grown, node, residual=value, residual_factor=factor)
                made = self._open[node].shape
                break
        else:
            value, last = (self._value(operand, node) for operand in (one, other))
            step = self._new(Add, node, value, other=last, factors=(first, second))
            made = self._shapes[last]
            self._open[node] = replace(step, shape=made)
        shapes = [operand.meta["shape"] for operand in node.all_input_nodes]
        if any(shape != node.meta["shape"] for shape in shapes) or self._shapes[value] != made:
            _refuse(node, "add values of one shape", " and ".join(map(str, shapes)))

    def _multiple(self, node: fx.Node) -> None:
        """A sum may be multiplied as a whole; anything else as an operand of one."""
        operand, factor = _multiplied(node, 1.0)
        step = self._growing(operand)
        if isinstance(step, Add) and not step.relu:
            assert isinstance(operand, fx.Node)
            first, second = step.factors
            self._grow(operand, node, factors=(factor * first, factor * second))

    def _join(self, node: fx.Node) -> None:
        given = {NUMPY.get(name, name): value for name, value in node.kwargs.items()}
        values: Any = node.args[0] if node.args else given.get("tensors")
        dim = node.args[1] if len(node.args) > 1 else given.get("dim", 0)
        rank = len(node.meta["shape"]) + 1
        if not isinstance(values, (tuple, list)) or dim not in (1, 1 - rank):
            _refuse(node, "put values behind one another by channels (dim 1)", f"dim {dim}")
        names = [self._value(value, node) for value in values]
        shapes = [self._shapes[name] for name in names]
        flat = all(len(value.meta["shape"]) == 1 for value in values)
        whole = flat or all(v.meta["shape"] == s for v, s in zip(values, shapes, strict=True))
        if not whole or len({shape[1:] for shape in shapes}) != 1:
            _refuse(node, "put maps of one size behind one another", " and ".join(map(str, shapes)))
        step = self._new(Concat, node, names[0], others=tuple(names[1:]))
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        self._close(node, replace(step, shape=shape))

    def _window(self, module: nn.MaxPool2d, node: fx.Node) -> Window:
        path = place(node)
        if pair(path, "dilation", module.dilation, 1) != (1, 1) or module.ceil_mode:
            _refuse(node, "take maxima of windows without dilation and ceil_mode", module)
        if module.return_indices:
            _refuse(node, "take maxima without their indices", module)
        return Window(
            kernel=pair(path, "kernel_size", module.kernel_size, 1),
            stride=pair(path, "stride", module.stride, 1),
            padding=pair(path, "padding", module.padding, 0),
        )

    def _average(self, node: fx.Node, source: fx.Node, module: nn.AvgPool2d) -> None:
        path = place(node)
        plain = pair(path, "padding", module.padding, 0) == (0, 0) and not module.ceil_mode
        if not plain or module.divisor_override is not None:
            _refuse(node, "take means of whole windows without padding", module)
        kernel = pair(path, "kernel_size", module.kernel_size, 1)
        stride = pair(path, "stride", module.stride, 1)
        self._add_step(Mean, node, source, kernel=kernel, stride=stride)

    def _adaptive(self, node: fx.Node, source: fx.Node) -> None:
        self._map_shape(node, source)
        # A mean may leave out the sides of 1.
        before, after = source.meta["shape"][1:], (*node.meta["shape"], 1, 1)[1:3]
        windows = [_regular(*sizes) for sizes in zip(before, after, strict=True)]
        factors = {count // size for size, count in zip(before, after, strict=True)}
        if before == after:
            self._nothing(node, source)
        elif windows[0] and windows[1]:
            kernel, stride = zip(*windows, strict=True)
            self._add_step(Mean, node, source, kernel=kernel, stride=stride)
        elif len(factors) == 1 and all(
            c % size == 0 for size, c in zip(before, after, strict=True)
        ):
            self._add_step(Repeat, node, source, factor=factors.pop())
        else:
            _refuse(node, "take means of windows of one size", f"{before} to {after}")

    def _pad(self, node: fx.Node, source: fx.Node, module: nn.ConstantPad2d) -> None:
        border = module.padding
        if module.value or min(border) < 0:
            _refuse(node, "pad rows and columns with zeros", f"{border} of {module.value}")
        self._add_step(Pad, node, source, border=border)

    def _enlargement(self, node: fx.Node, source: fx.Node, module: nn.Upsample) -> None:
        self._map_shape(node, source)
        before, after = source.meta["shape"][1:], node.meta["shape"][1:]
        factor = after[0] // before[0]
        # With whole factors both choose the same pixels.
        nearest = module.mode in ("nearest", "nearest-exact")
        if not nearest or after != tuple(factor * s for s in before):
            _refuse(node, "enlarge by repeating pixels", f"{before} to {after}, {module.mode}")
        self._add_step(Repeat, node, source, factor=factor)

    def _classifier(self, step: Step) -> Step:
        """The last step, marked if its sums can be left in floating point."""
        if not isinstance(step, Layer) or step.pool or step.residual or step.relu:
            return step
        layer = step.layer(self._model)
        whole = isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.Conv2d)
            and layer.groups == 1
            and layer.kernel_size == self._shapes[step.input][1:]
            and layer.padding in ((0, 0), "valid")
        )
        return replace(step, classifies=whole)


def _class_of(module: nn.Module) -> str:
    """Name of a module's class, short for those of `torch.nn`."""
    kind = type(module)
    name = kind.__qualname__
    return name if getattr(nn, name, None) is kind else f"{kind.__module__}.{name}"


def _multiplied(operand: object, factor: float) -> tuple[object, float]:
    """Innermost operand of a multiple of multiples, and the product of the factors."""
    while isinstance(operand, fx.Node) and (found := multiple(operand)) is not None:
        operand, factor = found[0], factor * found[1]
    return operand, factor


def _regular(size: int, count: int) -> Pair | None:
    """Window and stride where adaptive windows of `size` pixels are all alike, else None."""
    starts = [i * size // count for i in range(count)]
    ends = [-(-(i + 1) * size // count) for i in range(count)]
    sizes = {end - start for start, end in zip(starts, ends, strict=True)}
    strides = {after - before for before, after in pairwise(starts)} or {1}
    if len(sizes) != 1 or len(strides) != 1 or strides == {0}:
        return None
    return sizes.pop(), strides.pop()
