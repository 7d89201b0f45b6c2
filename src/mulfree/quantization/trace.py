"""Tracing of a model to a graph of operations on images of one size."""

from __future__ import annotations

import inspect
import operator
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from mulfree.errors import ConfigError, printable

Shape = tuple[int, ...]

# More than one: an operation that mixes images then has a result of another shape.
_IMAGES = 2
# Packages whose modules are recorded as one operation.
_LIBRARIES = ("torch.nn.", "torch.ao.nn.", "mulfree.operators.")
_MAX_REASON = 200
# Prefix that fx gives to tensors created in a forward.
_CONSTANT = "_tensor_constant"
_IN_PLACE = (operator.iadd, operator.imul)


class _Proxy(fx.Proxy):
    """Proxy of a tensor with its shape, for forwards that read it."""

    @property
    def _value(self) -> Tensor:
        value: Tensor = self.node.meta["value"]
        return value

    @property
    def shape(self) -> torch.Size:
        return self._value.shape

    @property
    def ndim(self) -> int:
        return self._value.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self._value.dtype

    @property
    def device(self) -> torch.device:
        return self._value.device

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return self._value.numel()

    def __len__(self) -> int:
        return len(self._value)

    def __iadd__(self, other: Any) -> Any:
        # Named as a sum; the target marks the change of its first operand.
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {}, "add")

    def __imul__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {}, "mul")


class _Tracer(fx.Tracer):
    """Record a forward while it runs on zeros. Layers are recorded as one operation."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images
        # Path of the module that raised, if any.
        self.failed: str | None = None
        self._running = False

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """The forward, the class's or the instance's, and its first argument."""
        forward = self.root.forward
        name = next(iter(inspect.signature(forward).parameters), "images")
        return forward, [self.create_proxy("placeholder", name, (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True if the forward is a library's, not overridden by a class or instance."""
        if isinstance(m, nn.Sequential) or {"forward", "_conv_forward"} & vars(m).keys():
            return False
        methods = (getattr(type(m), name, None) for name in ("forward", "_conv_forward"))
        return all(m is None or m.__module__.startswith(_LIBRARIES) for m in methods)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self._running:
            return forward(*args, **kwargs)
        if m not in (self.submodule_paths or {}):
            # Created in a forward: recorded as the functions that it calls.
            if any(True for _ in m.parameters()):
                raise TypeError(f"the layer {type(m).__name__} is not registered as a submodule")
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None:
                self.failed = self.path_of_module(m)
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["scope"] = self.scope.module_path
        if node.op == "placeholder":
            node.meta["value"] = self.images
        elif node.op != "output":
            self._running = True
            try:
                node.meta["value"] = self._computed(node)
            finally:
                self._running = False
        return node

    def _computed(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["value"])
        target: Any = node.target
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "get_attr":
            return operator.attrgetter(target)(self.root)
        call = self.root.get_submodule(target) if node.op == "call_module" else target
        return call(*args, **kwargs)


def trace(model: nn.Module, shape: Shape) -> fx.Graph:
    """Operations of `model` in evaluation mode on one image of `shape` `(C, H, W)`.

    A node's `meta["shape"]` is the shape of its result without the batch, `meta["scope"]` the path
    of the module whose forward contains it. Operations with unused results are left out. Readers
    after an in-place operation read its result. The model is run once on zeros; its mode is
    restored.

    Raises:
        ConfigError: The forward depends on the values of its input, or refuses such images.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    images = torch.zeros(_IMAGES, *shape, dtype=parameter.dtype, device=parameter.device)
    modes = {module: module.training for module in model.modules()}
    attributes = set(vars(model))
    model.eval()
    tracer = _Tracer(images)
    try:
        with torch.no_grad():
            graph = tracer.trace(model)
    except Exception as error:  # any: from the forward
        raise ConfigError(
            "quantize: `model` must be a network that runs and whose forward does not depend on "
            f"the values of images {list(shape)}, got {type(model).__name__} "
            f"({reason(error, tracer.failed)})"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
        for name in set(vars(model)) - attributes:
            delattr(model, name)
    _follow_changes(graph, model)
    for node in reversed(graph.nodes):
        value = node.meta.pop("value", None)
        whole = isinstance(value, Tensor) and value.shape[:1] == (_IMAGES,)
        node.meta["shape"] = tuple(value.shape[1:]) if whole else ()
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    return graph


def reason(error: Exception, path: str | None = None) -> str:
    """Error of a foreign function as part of a line: type, path and first line."""
    text = str(error).strip().partition("\n")[0]
    place = "" if path is None else f" in {path}"
    return printable(f"{type(error).__name__}{place}: {text}", _MAX_REASON)


def place(node: fx.Node) -> str:
    """Name of an operation in messages: "block.conv", or "torch.cat in block.forward"."""
    if node.op == "call_module":
        return str(node.target)
    target: Any = node.target
    if node.op == "call_method":
        name = f"Tensor.{target}"
    elif target is getattr:
        name = f"Tensor.{node.args[1]}"
    elif node.op == "get_attr":
        return "a constant tensor" if target.startswith(_CONSTANT) else str(target)
    else:
        name = torch.overrides.resolve_name(target)
        if name is None:
            module = getattr(target, "__module__", "") or ""
            name = f"{module.lstrip('_')}.{getattr(target, '__name__', type(target).__name__)}"
    scope = node.meta["scope"]
    return f"{name} in {scope}.forward" if scope else f"{name} in forward"


def unsupported(where: fx.Node | str, requirement: str, got: object) -> NoReturn:
    """Raise the error for an operation that cannot be quantised.

    Args:
        where: The operation, or its place.
        requirement: Property that the model must have.
        got: Property found.

    Raises:
        ConfigError: Always.
    """
    path = where if isinstance(where, str) else place(where)
    raise ConfigError(f"quantize: `model` must {requirement}, got {got} at {path}")


def _follow_changes(graph: fx.Graph, model: nn.Module) -> None:
    """Redirect later readers of an operand changed in place to the result."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not _changes_operand(node, model):
            continue
        operand = node.args[0] if node.args else None
        later = [user for user in getattr(operand, "users", ()) if order[user] > order[node]]
        for user in later:
            user.replace_input_with(operand, node)


def _changes_operand(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    target: Any = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or target in _IN_PLACE or bool(node.kwargs.get("inplace"))
