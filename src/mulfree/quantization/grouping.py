"""From the operations of a model to the steps of its integer network."""

from __future__ import annotations

import operator
from dataclasses import replace
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch.nn import functional

from mulfree.errors import ConfigError
from mulfree.operators.window import pair
from mulfree.quantization.plan import Plan
from mulfree.quantization.steps import (
    ADDER,
    LAYERS,
    LINEAR,
    NORMS,
    Add,
    AnyLayer,
    Layer,
    MaxPool,
    Mean,
    Pad,
    Pair,
    Repeat,
    Shape,
    Step,
    Window,
)
from mulfree.quantization.trace import trace

# Nothing happens in them to the numbers of a network in evaluation.
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)
# Operations that are modules, too, and are seen as these.
_MODULES: dict[object, type[nn.Module]] = {
    torch.relu: nn.ReLU,
    functional.relu: nn.ReLU,
    "relu": nn.ReLU,
    torch.flatten: nn.Flatten,
    "flatten": nn.Flatten,
}


def make_plan(model: nn.Module, shape: Shape) -> Plan:
    """The steps of `model` for images of `shape` `(C, H, W)`.

    Known are layers of the operators conv2d and adder2d, batch normalisation behind a layer (a
    maximum may lie between), ReLU, sums of two values, maximum and average pooling with equal
    windows, borders of zeros, and enlargement by repeating pixels.

    Raises:
        ConfigError: The model has something else in it, which is named.
    """
    return _Grouping(model, trace(model, shape)).plan()


def _refuse(path: str, requirement: str, got: object) -> NoReturn:
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
        last = self._value(result, "its end")
        if last != (self._steps[-1].output if self._steps else None):
            _refuse("its end", "make its logits by its last layer", f"the value of {result}")
        if self._shapes[last][1:] != (1, 1):
            _refuse("its end", "return one number per class", f"maps {self._shapes[last]}")
        self._steps[-1] = self._classifier(self._steps[-1])
        return Plan(input=images.name, shape=self._shapes[images.name], steps=tuple(self._steps))

    # --- values -----------------------------------------------------------------------------------

    def _value(self, node: object, path: str) -> str:
        """Name of the value of an operation, whose step is closed if it was open."""
        if not isinstance(node, fx.Node):
            _refuse(path, "compute with tensors of the network alone", repr(node))
        step = self._open.pop(node, None)
        if step is not None:
            self._close(node, step)
        if node not in self._values:
            _refuse(path, "compute with tensors of the network alone", node.name)
        return self._values[node]

    def _close(self, node: fx.Node, step: Step) -> None:
        shape = node.meta["shape"]
        step = replace(step, output=node.name, shape=(*shape, 1, 1)[:3])
        self._steps.append(step)
        self._values[node] = step.output
        self._shapes[step.output] = step.shape

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
        path = target if node.op == "call_module" else node.name
        module = self._module(node)
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            _refuse(path, "compute with tensors of the network alone", f"{target}")
        growing = self._growing(source)
        # A layer whose result may still be pooled and normalised.
        layer = growing if isinstance(growing, Layer) and not growing.norm else None
        if layer is not None and (layer.relu or layer.residual):
            layer = None
        match module:
            case _ if isinstance(module, LAYERS):
                self._layer(node, source, path, module)
            case _ if isinstance(module, NORMS):
                if layer is None or module.running_var is None:
                    _refuse(path, "normalise the result of a layer, by running statistics", module)
                self._grow(source, node, norm=path)
            case nn.ReLU():
                if growing is None or growing.relu:
                    _refuse(path, "have a ReLU only behind a layer or a sum", "one")
                self._grow(source, node, relu=True)
            case nn.MaxPool2d():
                window = self._window(module, path)
                if layer and not layer.pool and self._is_normalised(node):
                    self._grow(source, node, pool=window)
                else:
                    self._add_step(MaxPool, node, source, path, window=window)
            case nn.AvgPool2d():
                self._average(node, source, path, module)
            case nn.AdaptiveAvgPool2d():
                self._adaptive(node, source, path)
            case _ if isinstance(module, _NOTHING):
                self._nothing(node, source, path)
            case _ if target in (operator.add, operator.iadd, torch.add) and not node.kwargs:
                self._sum(node, path)
            case _ if target is functional.pad:
                self._pad(node, source, path)
            case _ if target is functional.interpolate:
                self._enlargement(node, source, path)
            case _:
                got = (
                    getattr(target, "__name__", target) if module is None else type(module).__name__
                )
                _refuse(path, "be made of what can be quantised", got)

    def _module(self, node: fx.Node) -> nn.Module | None:
        if node.op == "call_module":
            return self._model.get_submodule(str(node.target))
        known = _MODULES.get(node.target)
        return None if known is None else known()

    def _is_normalised(self, node: fx.Node) -> bool:
        return [isinstance(self._module(user), NORMS) for user in node.users] == [True]

    def _add_step(self, kind: Any, node: fx.Node, source: fx.Node, path: str, **parts: Any) -> None:
        value = self._value(source, path)
        self._close(node, kind(output="", shape=(), input=value, path=path, **parts))

    def _nothing(self, node: fx.Node, source: fx.Node, path: str) -> None:
        if self._growing(source) is not None:
            self._grow(source, node)
        else:
            self._values[node] = self._value(source, path)

    def _layer(self, node: fx.Node, source: fx.Node, path: str, module: AnyLayer) -> None:
        value = self._value(source, path)
        if getattr(module, "padding_mode", "zeros") != "zeros":
            _refuse(path, "pad with zeros", f"padding_mode {module.padding_mode!r}")
        if isinstance(module, ADDER) and module.norm != 1.0:
            _refuse(path, "have plain adder layers (norm 1)", f"norm {module.norm}")
        if isinstance(module, LINEAR):
            if len(source.meta["shape"]) != 1:
                _refuse(path, "flatten what a linear layer reads", list(source.meta["shape"]))
        elif any(d > 1 and k > 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)):
            _refuse(path, "have no dilated layers", f"dilation {module.dilation}")
        step = Layer(output="", shape=(0, 0, 0), input=value, path=path, module=path)
        self._open[node] = step

    def _sum(self, node: fx.Node, path: str) -> None:
        one, other = node.args
        for grown, residual in ((one, other), (other, one)):
            step = self._growing(grown)
            if isinstance(step, Layer) and not step.relu and not step.residual and one is not other:
                assert isinstance(grown, fx.Node)
                self._grow(grown, node, residual=self._value(residual, path))
                break
        else:
            first, second = (self._value(operand, path) for operand in (one, other))
            self._open[node] = Add(output="", shape=(0, 0, 0), input=first, path=path, other=second)
        shapes = [operand.meta["shape"] for operand in node.all_input_nodes]
        if any(shape != node.meta["shape"] for shape in shapes):
            _refuse(path, "add values of one shape", " and ".join(map(str, shapes)))

    def _window(self, module: nn.MaxPool2d, path: str) -> Window:
        kernel, stride = pair(path, "kernel_size", module.kernel_size, 1), module.stride
        if pair(path, "dilation", module.dilation, 1) != (1, 1) or module.ceil_mode:
            _refuse(path, "take maxima of windows without dilation and ceil_mode", module)
        return Window(
            kernel=kernel,
            stride=pair(path, "stride", stride, 1),
            padding=pair(path, "padding", module.padding, 0),
        )

    def _average(self, node: fx.Node, source: fx.Node, path: str, module: nn.AvgPool2d) -> None:
        plain = pair(path, "padding", module.padding, 0) == (0, 0) and not module.ceil_mode
        if not plain or module.divisor_override is not None:
            _refuse(path, "take means of whole windows without padding", module)
        kernel = pair(path, "kernel_size", module.kernel_size, 1)
        stride = pair(path, "stride", module.stride, 1)
        self._add_step(Mean, node, source, path, kernel=kernel, stride=stride)

    def _adaptive(self, node: fx.Node, source: fx.Node, path: str) -> None:
        before, after = source.meta["shape"][1:], node.meta["shape"][1:]
        windows = [_regular(*sizes) for sizes in zip(before, after, strict=True)]
        factors = {count // size for size, count in zip(before, after, strict=True)}
        if before == after:
            self._nothing(node, source, path)
        elif windows[0] and windows[1]:
            kernel, stride = zip(*windows, strict=True)
            self._add_step(Mean, node, source, path, kernel=kernel, stride=stride)
        elif len(factors) == 1 and all(
            c % size == 0 for size, c in zip(before, after, strict=True)
        ):
            self._add_step(Repeat, node, source, path, factor=factors.pop())
        else:
            _refuse(path, "take means of windows of one size", f"{before} to {after}")

    def _pad(self, node: fx.Node, source: fx.Node, path: str) -> None:
        border: Any = node.args[1]
        zeros = node.kwargs.get("mode") == "constant" and not node.kwargs.get("value")
        if not zeros or len(border) not in (2, 4) or min(border) < 0:
            _refuse(path, "pad rows and columns with zeros", f"{border}, {dict(node.kwargs)}")
        self._add_step(Pad, node, source, path, border=(*border, 0, 0)[:4])

    def _enlargement(self, node: fx.Node, source: fx.Node, path: str) -> None:
        before, after = source.meta["shape"][1:], node.meta["shape"][1:]
        factor = after[0] // before[0]
        if node.kwargs.get("mode") != "nearest" or after != tuple(factor * s for s in before):
            _refuse(path, "enlarge by repeating pixels", f"{before} to {after}")
        self._add_step(Repeat, node, source, path, factor=factor)

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


def _regular(size: int, count: int) -> Pair | None:
    """Window and stride where adaptive windows of `size` pixels are all alike, else None."""
    starts = [i * size // count for i in range(count)]
    ends = [-(-(i + 1) * size // count) for i in range(count)]
    sizes = {end - start for start, end in zip(starts, ends, strict=True)}
    strides = {after - before for before, after in pairwise(starts)} or {1}
    if len(sizes) != 1 or len(strides) != 1 or strides == {0}:
        return None
    return sizes.pop(), strides.pop()
