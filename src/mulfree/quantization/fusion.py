"""Fusion of the traced operations of a model to the operations of its integer network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from torch import fx, nn

from mulfree import nodes
from mulfree.errors import ConfigError
from mulfree.nodes.fusing import OrderOp, RectifiedOp, source_of
from mulfree.operators import integer_form, operator_of, window
from mulfree.operators.operator import Operator
from mulfree.quantization.composition import compose
from mulfree.quantization.fused_graph import FusedGraph, by_output
from mulfree.quantization.fused_ops import BATCH_NORMS, BatchNorm, FusedLayer, FusedOp, Shape
from mulfree.quantization.spellings import SPELLINGS, spelled
from mulfree.quantization.trace import place, trace, unsupported
from mulfree.runtime.artifact import LOGITS

# Identities in evaluation mode, up to the shape.
_IDENTITIES = (nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten)
_ALONE = "compute with tensors of the network alone"
_UNKNOWN = "consist of supported operations"


def fuse(model: nn.Module, shape: Shape) -> FusedGraph:
    """Fused operations of `model` for images of `shape` `(C, H, W)`.

    Supported are layers of operators with an integer form, batch norm after a layer or after its
    max pooling, ReLU and ReLU6 as part of a layer, sum or gate, and the operations that the facets
    `quantize` in `mulfree.nodes` recognise; as modules, functions and methods.

    Raises:
        ConfigError: The model has another operation; the message names it.
    """
    return Fusion(model, trace(model, shape)).fused()


class Fusion:
    """Fuse the operations in one pass, in order.

    A fused operation is open while a later operation can become a part of it, and closed once any
    other operation reads its value.

    Attributes:
        shapes: C, H, W of the closed values by name.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self._model = model
        self._graph = graph
        self._ops: list[FusedOp] = []
        self._open: dict[fx.Node, RectifiedOp] = {}
        self._values: dict[fx.Node, str] = {}
        # Requirement on the readers of an operation without a value.
        self._deferred: dict[fx.Node, str] = {}
        self.shapes: dict[str, Shape] = {}
        facets = [nodes.facet(op, "quantize") for op in nodes.NODES]
        self._facets: list[Any] = [facet for facet in facets if hasattr(facet, "TARGETS")]
        self._spellings = dict(SPELLINGS)
        for facet in self._facets:
            self._spellings |= getattr(facet, "SPELLINGS", {})

    def fused(self) -> FusedGraph:
        """Fuse all operations."""
        classes = (kind for facet in self._facets for kind in getattr(facet, "ELEMENTWISE", ()))
        compose(self._graph, self._module, tuple(classes))
        images, *operations, end = self._graph.nodes
        self._values[images] = images.name
        self.shapes[images.name] = images.meta["shape"]
        for node in operations:
            self._operation(node)
        outputs = self._outputs(end.args[0])
        ops = self._ordered(outputs)
        return FusedGraph(
            input=images.name, shape=self.shapes[images.name], ops=ops, outputs=outputs
        )

    def _outputs(self, result: object) -> dict[str, str]:
        """Names of the outputs and of their values: one tensor, or tensors by name."""
        named = dict(result) if isinstance(result, Mapping) else {LOGITS: result}
        wrong = [node for node in named.values() if not isinstance(node, fx.Node)]
        if wrong or not named:
            got = type(wrong[0]).__name__.removeprefix("immutable_") if wrong else "none"
            unsupported("its end", "return logits, one tensor or several by name", got)
        return {name: self.value(node, "its end") for name, node in named.items()}

    def _ordered(self, outputs: Mapping[str, str]) -> tuple[FusedOp, ...]:
        """Operations in the order of the outputs, each ended by the layer that makes it."""
        parts = by_output(self._ops, list(outputs.values()))
        for value, part in zip(outputs.values(), parts, strict=True):
            if not part or part[-1].output != value:
                unsupported("its end", "compute its logits in its last layer", f"{value} earlier")
            if self.shapes[value][1:] != (1, 1):
                unsupported("its end", "return one number per class", f"maps {self.shapes[value]}")
            if not any(value in op.inputs for op in self._ops):
                part[-1] = self._classifier(part[-1])
        return tuple(op for part in parts for op in part)

    # --- values -----------------------------------------------------------------------------------

    def value(self, node: object, where: fx.Node | str) -> str:
        """Name of the value of a traced operation; closes its fused operation.

        Args:
            node: The operation; anything else is refused.
            where: The reader, for the message.
        """
        if not isinstance(node, fx.Node):
            unsupported(where, _ALONE, repr(node))
        op = self._open.pop(node, None)
        if op is not None:
            self.close(node, op)
        self._check_known(node, where)
        return self._values[node]

    def has_value(self, node: fx.Node) -> bool:
        """True for an operation with a value of its own or an open fused operation."""
        return node in self._values or node in self._open

    def _check_known(self, node: fx.Node, where: fx.Node | str) -> None:
        """Refuse operands without a value, as parameters."""
        if not self.has_value(node):
            unsupported(where, self._deferred.get(node, _ALONE), place(node))

    def source(self, node: fx.Node) -> fx.Node:
        """First operand of a traced operation, which must have a value."""
        source = source_of(node)
        if not isinstance(source, fx.Node):
            unsupported(node, _ALONE, repr(source))
        self._check_known(source, node)
        return source

    def shape(self, node: fx.Node) -> Shape:
        """C, H, W of the result of an operation, ignoring flattening."""
        op = self._open.get(node)
        return self.shapes[self._values[node]] if op is None else op.shape

    def require_map(self, node: fx.Node, source: fx.Node) -> None:
        """Refuse a flattened operand of `node`."""
        if source.meta["shape"] != self.shape(source):
            unsupported(node, "read a feature map [C, H, W]", list(source.meta["shape"]))

    def _map(self, source: fx.Node, node: fx.Node) -> str:
        """Name of the value of `source`, which must not be flattened."""
        self.require_map(node, source)
        return self.value(source, node)

    # --- fused operations -------------------------------------------------------------------------

    def new(self, kind: Any, node: fx.Node, value: str, **parts: Any) -> Any:
        """Fused operation of class `kind` that begins with a traced one and reads `value`."""
        path = str(node.target) if node.op == "call_module" else node.name
        fields = {"shape": (*node.meta["shape"], 1, 1)[:3], **parts}
        return kind(output="", input=value, path=path, **fields)

    def add(self, kind: Any, node: fx.Node, source: fx.Node, **parts: Any) -> None:
        """Add a fused operation of one map; one chosen by order joins the layer before it."""
        layer = self._bare_layer(source)
        if issubclass(kind, OrderOp) and layer and not layer.pool and self._is_grown(node):
            self.require_map(node, source)
            pool = self.new(kind, node, "", **parts)
            self.grow(source, node, pool=pool, shape=node.meta["shape"])
        else:
            self.close(node, self.new(kind, node, self._map(source, node), **parts))

    def close(self, node: fx.Node, op: FusedOp) -> None:
        """Add a complete fused operation, whose last traced one is `node`."""
        self._ops.append(replace(op, output=node.name))
        self._values[node] = node.name
        self.shapes[node.name] = op.shape

    def begin(self, node: fx.Node, op: RectifiedOp) -> None:
        """Add a fused operation that later ones can join."""
        self._open[node] = op

    def growing(self, node: object) -> RectifiedOp | None:
        """Open fused operation of a traced operation with one reader."""
        if isinstance(node, fx.Node) and len(node.users) == 1:
            return self._open.get(node)
        return None

    def grow(self, source: fx.Node, node: fx.Node, **parts: Any) -> None:
        """Extend the open fused operation of `source` by `node`."""
        self._open[node] = replace(self._open.pop(source), **parts)

    def add_residual(self, node: fx.Node, operands: list[tuple[object, float]]) -> str | None:
        """Extend a layer by a sum with another value; return its name, None if no layer can.

        Args:
            node: The sum.
            operands: Two summands with their factors.
        """
        for (grown, one), (residual, factor) in (operands, operands[::-1]):
            op = self.growing(grown)
            whole = isinstance(op, FusedLayer) and not op.relu and not op.residual
            if whole and one == 1.0:
                assert isinstance(grown, fx.Node)
                value = self.value(residual, node)
                self.grow(grown, node, residual=value, residual_factor=factor)
                return value
        return None

    def identity(self, node: fx.Node, source: fx.Node) -> None:
        """Let `node` be the value of `source`, possibly reshaped."""
        if math.prod(node.meta["shape"]) != math.prod(source.meta["shape"]):
            unsupported(node, "keep images separate", "another number of elements")
        if self.growing(source) is not None:
            self.grow(source, node)
        else:
            self._values[node] = self.value(source, node)

    def defer(self, node: fx.Node, requirement: str) -> None:
        """Leave an operation to the facets of its readers; other readers are refused."""
        self._deferred[node] = requirement

    # --- arguments and refusals -------------------------------------------------------------------

    def pair(self, node: fx.Node, name: str, value: Any, least: int = 1) -> window.Pair:
        """Argument `name` of an operation as a pair of integers of at least `least`."""
        return window.pair(place(node), name, value, least)

    def refuse(self, node: fx.Node, requirement: str, got: object) -> NoReturn:
        """Raise the error for an operation that does not meet a requirement."""
        unsupported(node, requirement, got)

    def refuse_unknown(self, node: fx.Node, got: str | None = None) -> NoReturn:
        """Raise the error for an operation that is not supported, or for the part `got` of it."""
        if got is not None:
            unsupported(node, _UNKNOWN, got)
        raise ConfigError(f"quantize: `model` must {_UNKNOWN}, got {place(node)}")

    # --- traced operations ------------------------------------------------------------------------

    def _operation(self, node: fx.Node) -> None:
        # The reader of an attribute raises.
        if node.op != "get_attr":
            self.fuse_as(node, self._module(node))

    def fuse_as(self, node: fx.Node, module: nn.Module | None) -> None:
        """Fuse a traced operation that equals `module`; None for one that equals no module."""
        recognised: Any = node.target if module is None else module
        for facet in self._facets:
            matches = getattr(facet, "matches", _always)
            if _is_target(recognised, facet.TARGETS) and matches(self, node, module):
                facet.fuse(self, node, module)
                return
        if module is None:
            self.refuse_unknown(node)
        source = self.source(node)
        operator = operator_of(module)
        match module:
            case _ if operator is not None:
                self._layer(node, source, module, operator)
            case _ if isinstance(module, BATCH_NORMS):
                self._batch_norm(node, source, module)
            case nn.ReLU():
                self._rectifier(node, source, None)
            case nn.Hardtanh() if module.min_val == 0:
                self._rectifier(node, source, float(module.max_val))
            case _ if isinstance(module, _IDENTITIES):
                self.identity(node, source)
            case _:
                unsupported(node, _UNKNOWN, _class_of(module))

    def _module(self, node: fx.Node) -> nn.Module | None:
        """Module of an operation, or the module that a function or method equals."""
        if node.op == "call_module":
            return self._model.get_submodule(str(node.target))
        if isinstance(node.target, nn.Module):
            return node.target
        return spelled(node, self._spellings)

    def _is_grown(self, node: fx.Node) -> bool:
        """True if a batch norm or a ReLU follows, which commutes with a choice by order."""
        kinds = (*BATCH_NORMS, nn.ReLU)
        return [isinstance(self._module(user), kinds) for user in node.users] == [True]

    def _bare_layer(self, source: fx.Node) -> FusedLayer | None:
        """Open layer that pooling and batch norm can still join."""
        op = self.growing(source)
        if not isinstance(op, FusedLayer) or op.batch_norm or op.relu or op.residual:
            return None
        return op

    def _layer(self, node: fx.Node, source: fx.Node, module: Any, operator: Operator) -> None:
        form = integer_form(operator.name)
        if form is None:
            requirement = "have layers of operators with an integer form"
            unsupported(node, requirement, f"the operator {operator.name}")
        flat = isinstance(module, operator.linear)
        value = self.value(source, node) if flat else self._map(source, node)
        if flat and len(source.meta["shape"]) != 1:
            unsupported(node, "flatten the input of a linear layer", list(source.meta["shape"]))
        refusal = form.check(module)
        if refusal is not None:
            unsupported(node, *refusal)
        path = str(node.target)
        self._open[node] = self.new(FusedLayer, node, value, module=path, form=form, flat=flat)

    def _batch_norm(self, node: fx.Node, source: fx.Node, module: BatchNorm) -> None:
        layer = self._bare_layer(source)
        if layer is None or module.running_var is None:
            unsupported(node, "normalise the output of a layer, by running statistics", module)
        if source.meta["shape"] != (layer.shape[:1] if layer.flat else layer.shape):
            unsupported(node, "normalise the filters of a layer", list(source.meta["shape"]))
        self.grow(source, node, batch_norm=str(node.target))

    def _rectifier(self, node: fx.Node, source: fx.Node, ceiling: float | None) -> None:
        growing = self.growing(source)
        # A facet fuses the other rectifiers.
        assert growing is not None
        ceilings = [number for number in (growing.ceiling, ceiling) if number is not None]
        self.grow(source, node, relu=True, ceiling=min(ceilings, default=None))

    def _classifier(self, op: FusedOp) -> FusedOp:
        """Mark the end of an output if it is a layer whose sums can stay in floating point."""
        if not isinstance(op, FusedLayer) or op.pool or op.residual or op.relu:
            return op
        layer = op.layer(self._model)
        whole = op.flat or (
            layer.groups == 1
            and layer.kernel_size == self.shapes[op.input][1:]
            and layer.padding in ((0, 0), "valid")
        )
        return replace(op, classifies=whole and op.form.linear)


def _always(fusion: Fusion, node: fx.Node, module: nn.Module | None) -> bool:
    """Return True: every operation among the targets of a facet is the facet's."""
    return True


def _is_target(recognised: object, targets: tuple[object, ...]) -> bool:
    """Return True for an instance of a class among the targets, or a function or method name."""
    if isinstance(recognised, nn.Module):
        classes = tuple(target for target in targets if isinstance(target, type))
        return isinstance(recognised, classes)
    return recognised in targets


def _class_of(module: nn.Module) -> str:
    """Return the name of a module's class, short for classes of `torch.nn`."""
    kind = type(module)
    name = kind.__qualname__
    return name if getattr(nn, name, None) is kind else f"{kind.__module__}.{name}"
