"""A model as a graph of operations on images of one size."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from mulfree.errors import ConfigError
from mulfree.operators import operator_of

Shape = tuple[int, ...]


class _Proxy(fx.Proxy):
    """Stands in for a tensor whose shape is known, so that a forward may ask for it."""

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.node.meta["value"].shape)


class _Tracer(fx.Tracer):
    """Records a forward while it runs on zeros. Layers are recorded, not what happens in them."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images
        self._running = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return operator_of(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self._running:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if node.op == "placeholder":
            node.meta["value"] = self.images
        elif node.op != "output":
            self._running = True
            node.meta["value"] = self._computed(node)
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
    """The operations of `model` in evaluation on one image of `shape` `(C, H, W)`.

    A node's `meta["shape"]` is the shape of its result without the batch. The model is run once on
    zeros and left in the mode it was in.

    Raises:
        ConfigError: The forward depends on the values of its input, or does not take such images.
    """
    parameter = next(model.parameters(), torch.empty(0))
    images = torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            graph = _Tracer(images).trace(model)
    except (fx.proxy.TraceError, RuntimeError, TypeError) as error:
        raise ConfigError(
            "quantize: `model` must be a network whose forward does not depend on the values of "
            f"images {list(shape)}, got {type(model).__name__} ({error})"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    for node in graph.nodes:
        value = node.meta.pop("value", None)
        node.meta["shape"] = tuple(value.shape[1:]) if isinstance(value, Tensor) else ()
    return graph
