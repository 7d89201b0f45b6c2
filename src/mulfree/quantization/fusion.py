"""Fusion of the traced operations of a model to the operations of its integer network."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from mulfree.errors import ConfigError
from mulfree.operators import integer_form, operator_of
from mulfree.operators.operator import Operator
from mulfree.quantization.fused_graph import FusedGraph
from mulfree.quantization.fused_ops import (
    BATCH_NORMS,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    FusedLayer,
    FusedOp,
    MaxPool,
    Pad,
    Shape,
    Upsample,
)
from mulfree.quantization.fusion_geometry import (
    adaptive_pooling,
    average_window,
    class_of,
    pool_window,
    upsampling_factor,
    zero_border,
)
from mulfree.quantization.spellings import NUMPY, SUMS, multiple, source_of, spelled
from mulfree.quantization.trace import place, trace, unsupported

# Identities in evaluation mode, up to the shape.
_IDENTITIES = (nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten)
_JOINS = (torch.cat, torch.concat, torch.concatenate)
_ALONE = "compute with tensors of the network alone"
_UNKNOWN = "consist of supported operations"


def fuse(model: nn.Module, shape: Shape) -> FusedGraph:
    """Fused operations of `model` for images of `shape` `(C, H, W)`.

    Supported are layers of operators with an integer form, batch norm after a layer or after its
    max pooling, ReLU and ReLU6, sums of multiples of two values, concatenation by channels,
    max and average pooling with equal windows, zero padding, and nearest-neighbour upsampling; as
    modules, functions and methods.

    Raises:
        ConfigError: The model has another operation; the message names it.
    """
    return _Fusion(model, trace(model, shape)).fused()


class _Fusion:
    """Fuse the operations in one pass, in order.

    A fused operation is open while a later operation can become a part of it, and closed once any
    other operation reads its value.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self._model = model
        self._graph = graph
        self._ops: list[FusedOp] = []
        self._open: dict[fx.Node, FusedLayer | Add] = {}
        self._values: dict[fx.Node, str] = {}
        self._shapes: dict[str, Shape] = {}

    def fused(self) -> FusedGraph:
        """Fuse all operations."""
        images, *operations, end = self._graph.nodes
        self._values[images] = images.name
        self._shapes[images.name] = images.meta["shape"]
        for node in operations:
            self._operation(node)
        (result,) = end.args
        if not isinstance(result, fx.Node):
            got = type(result).__name__.removeprefix("immutable_")
            unsupported("its end", "return one tensor, the logits", got)
        last = self._value(result, "its end")
        if last != (self._ops[-1].output if self._ops else None):
            unsupported("its end", "compute its logits in its last layer", f"the value of {result}")
        if self._shapes[last][1:] != (1, 1):
            unsupported("its end", "return one number per class", f"maps {self._shapes[last]}")
        self._ops[-1] = self._classifier(self._ops[-1])
        return FusedGraph(input=images.name, shape=self._shapes[images.name], ops=tuple(self._ops))

    # --- values -----------------------------------------------------------------------------------

    def _value(self, node: object, where: fx.Node | str) -> str:
        """Name of the value of a traced operation; closes its fused operation."""
        if not isinstance(node, fx.Node):
            unsupported(where, _ALONE, repr(node))
        op = self._open.pop(node, None)
        if op is not None:
            self._close(node, op)
        self._check_known(node, where)
        return self._values[node]

    def _check_known(self, node: fx.Node, where: fx.Node | str) -> None:
        """Refuse operands without a value, as parameters and multiples."""
        if node not in self._values and node not in self._open:
            known = _ALONE if multiple(node) is None else "use multiples in sums only"
            unsupported(where, known, place(node))

    def _shape(self, node: fx.Node) -> Shape:
        """C, H, W of the result of an operation, ignoring flattening."""
        op = self._open.get(node)
        return self._shapes[self._values[node]] if op is None else op.shape

    def _map(self, node: fx.Node, where: fx.Node) -> str:
        """Name of the value of a traced operation that is not flattened."""
        name = self._value(node, where)
        if node.meta["shape"] != self._shapes[name]:
            unsupported(where, "read a feature map [C, H, W]", list(node.meta["shape"]))
        return name

    def _close(self, node: fx.Node, op: FusedOp) -> None:
        self._ops.append(replace(op, output=node.name))
        self._values[node] = node.name
        self._shapes[node.name] = op.shape

    def _growing(self, node: object) -> FusedLayer | Add | None:
        """Open fused operation of a traced operation with one reader."""
        if isinstance(node, fx.Node) and len(node.users) == 1:
            return self._open.get(node)
        return None

    def _grow(self, source: fx.Node, node: fx.Node, **parts: Any) -> None:
        self._open[node] = replace(self._open.pop(source), **parts)

    # --- operations -------------------------------------------------------------------------------

    def _operation(self, node: fx.Node) -> None:
        target: Any = node.target
        if node.op == "get_attr":
            return  # its reader raises
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
            unsupported(node, _ALONE, repr(source))
        self._check_known(source, node)
        growing = self._growing(source)
        # A layer that pooling and batch norm can still join.
        layer = growing if isinstance(growing, FusedLayer) and not growing.batch_norm else None
        if layer is not None and (layer.relu or layer.residual):
            layer = None
        operator = operator_of(module)
        match module:
            case _ if operator is not None:
                self._layer(node, source, module, operator)
            case _ if isinstance(module, BATCH_NORMS):
                self._batch_norm(node, source, layer, module)
            case nn.ReLU():
                self._rectifier(node, source, None)
            case nn.Hardtanh() if module.min_val == 0:
                self._rectifier(node, source, float(module.max_val))
            case nn.MaxPool2d():
                window = pool_window(node, module)
                if layer and not layer.pool and self._is_grown(node):
                    self._map_shape(node, source)
                    self._grow(source, node, pool=window, shape=node.meta["shape"])
                else:
                    self._add_op(MaxPool, node, source, window=window)
            case nn.AvgPool2d():
                self._add_op(AvgPool, node, source, **average_window(node, module))
            case nn.AdaptiveAvgPool2d():
                self._adaptive(node, source)
            case nn.Upsample():
                self._upsample(node, source, module)
            case nn.ConstantPad2d():
                self._add_op(Pad, node, source, border=zero_border(node, module))
            case _ if isinstance(module, _IDENTITIES):
                self._identity(node, source)
            case _:
                unsupported(node, _UNKNOWN, class_of(module))
        return None

    def _module(self, node: fx.Node) -> nn.Module | None:
        if node.op == "call_module":
            return self._model.get_submodule(str(node.target))
        return spelled(node)

    def _is_grown(self, node: fx.Node) -> bool:
        """True if a batch norm or a ReLU follows, which commutes with the maximum."""
        kinds = (*BATCH_NORMS, nn.ReLU)
        return [isinstance(self._module(user), kinds) for user in node.users] == [True]

    def _map_shape(self, node: fx.Node, source: fx.Node) -> None:
        if source.meta["shape"] != self._shape(source):
            unsupported(node, "read a feature map [C, H, W]", list(source.meta["shape"]))

    def _add_op(self, kind: Any, node: fx.Node, source: fx.Node, **parts: Any) -> None:
        value = self._map(source, node)
        self._close(node, self._new(kind, node, value, **parts))

    def _new(self, kind: Any, node: fx.Node, value: str, **parts: Any) -> Any:
        """Fused operation that begins with a traced one."""
        path = str(node.target) if node.op == "call_module" else node.name
        shape = (*node.meta["shape"], 1, 1)[:3]
        return kind(output="", shape=shape, input=value, path=path, **parts)

    def _identity(self, node: fx.Node, source: fx.Node) -> None:
        if math.prod(node.meta["shape"]) != math.prod(source.meta["shape"]):
            unsupported(node, "keep images separate", "another number of elements")
        if self._growing(source) is not None:
            self._grow(source, node)
        else:
            self._values[node] = self._value(source, node)

    def _layer(self, node: fx.Node, source: fx.Node, module: Any, operator: Operator) -> None:
        form = integer_form(operator.name)
        if form is None:
            requirement = "have layers of operators with an integer form"
            unsupported(node, requirement, f"the operator {operator.name}")
        flat = isinstance(module, operator.linear)
        value = self._value(source, node) if flat else self._map(source, node)
        if flat and len(source.meta["shape"]) != 1:
            unsupported(node, "flatten the input of a linear layer", list(source.meta["shape"]))
        refusal = form.check(module)
        if refusal is not None:
            unsupported(node, *refusal)
        path = str(node.target)
        self._open[node] = self._new(FusedLayer, node, value, module=path, form=form, flat=flat)

    def _batch_norm(
        self, node: fx.Node, source: fx.Node, layer: FusedLayer | None, module: BatchNorm
    ) -> None:
        if layer is None or module.running_var is None:
            unsupported(node, "normalise the output of a layer, by running statistics", module)
        if source.meta["shape"] != (layer.shape[:1] if layer.flat else layer.shape):
            unsupported(node, "normalise the filters of a layer", list(source.meta["shape"]))
        self._grow(source, node, batch_norm=str(node.target))

    def _rectifier(self, node: fx.Node, source: fx.Node, ceiling: float | None) -> None:
        growing = self._growing(source)
        if growing is None:
            unsupported(node, "have a ReLU only after a layer or a sum", "one")
        ceilings = [number for number in (growing.ceiling, ceiling) if number is not None]
        self._grow(source, node, relu=True, ceiling=min(ceilings, default=None))

    def _operands(self, node: fx.Node) -> list[tuple[object, float]]:
        """Summands with their factors."""
        given = dict(node.kwargs)
        one = source_of(node)
        other = node.args[1] if len(node.args) > 1 else given.get("other")
        alpha = given.get("alpha", 1)
        if set(given) - {"input", "other", "alpha"} or not isinstance(alpha, (int, float)):
            unsupported(node, _UNKNOWN, f"arguments {', '.join(given)}")
        return [_multiplied(one, 1.0), _multiplied(other, SUMS[node.target] * alpha)]

    def _sum(self, node: fx.Node) -> None:
        (one, first), (other, second) = operands = self._operands(node)
        # Not a layer: its factors come from its batch norm.
        multiplied = [multiple(user) is not None for user in node.users] == [True]
        for (grown, one_factor), (residual, factor) in (operands, operands[::-1]):
            op = self._growing(grown)
            whole = isinstance(op, FusedLayer) and not op.relu and not op.residual
            if whole and one_factor == 1.0 and one is not other and not multiplied:
                assert isinstance(grown, fx.Node)
                value = self._value(residual, node)
                self._grow(grown, node, residual=value, residual_factor=factor)
                made = self._open[node].shape
                break
        else:
            value, last = (self._value(operand, node) for operand in (one, other))
            op = self._new(Add, node, value, other=last, factors=(first, second))
            made = self._shapes[last]
            self._open[node] = replace(op, shape=made)
        shapes = [operand.meta["shape"] for operand in node.all_input_nodes]
        if any(shape != node.meta["shape"] for shape in shapes) or self._shapes[value] != made:
            unsupported(node, "add values of one shape", " and ".join(map(str, shapes)))

    def _multiple(self, node: fx.Node) -> None:
        """Multiply an open sum; any other multiple is resolved by the sum that reads it."""
        operand, factor = _multiplied(node, 1.0)
        op = self._growing(operand)
        if isinstance(op, Add) and not op.relu:
            assert isinstance(operand, fx.Node)
            first, second = op.factors
            self._grow(operand, node, factors=(factor * first, factor * second))

    def _join(self, node: fx.Node) -> None:
        given = {NUMPY.get(name, name): value for name, value in node.kwargs.items()}
        values: Any = node.args[0] if node.args else given.get("tensors")
        dim = node.args[1] if len(node.args) > 1 else given.get("dim", 0)
        rank = len(node.meta["shape"]) + 1
        if not isinstance(values, (tuple, list)) or dim not in (1, 1 - rank):
            unsupported(node, "concatenate by channels (dim 1)", f"dim {dim}")
        names = [self._value(value, node) for value in values]
        shapes = [self._shapes[name] for name in names]
        flat = all(len(value.meta["shape"]) == 1 for value in values)
        whole = flat or all(v.meta["shape"] == s for v, s in zip(values, shapes, strict=True))
        if not whole or len({shape[1:] for shape in shapes}) != 1:
            unsupported(node, "concatenate maps of one size", " and ".join(map(str, shapes)))
        op = self._new(Concat, node, names[0], others=tuple(names[1:]))
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        self._close(node, replace(op, shape=shape))

    def _adaptive(self, node: fx.Node, source: fx.Node) -> None:
        self._map_shape(node, source)
        made = adaptive_pooling(node, source)
        if made is None:
            self._identity(node, source)
        else:
            kind, parts = made
            self._add_op(kind, node, source, **parts)

    def _upsample(self, node: fx.Node, source: fx.Node, module: nn.Upsample) -> None:
        self._map_shape(node, source)
        self._add_op(Upsample, node, source, factor=upsampling_factor(node, source, module))

    def _classifier(self, op: FusedOp) -> FusedOp:
        """Mark the last operation if it is a layer whose sums can stay in floating point."""
        if not isinstance(op, FusedLayer) or op.pool or op.residual or op.relu:
            return op
        layer = op.layer(self._model)
        whole = op.flat or (
            layer.groups == 1
            and layer.kernel_size == self._shapes[op.input][1:]
            and layer.padding in ((0, 0), "valid")
        )
        return replace(op, classifies=whole and op.form.linear)


def _multiplied(operand: object, factor: float) -> tuple[object, float]:
    """Innermost operand of nested multiples, and the product of the factors."""
    while isinstance(operand, fx.Node) and (found := multiple(operand)) is not None:
        operand, factor = found[0], factor * found[1]
    return operand, factor
