"""References of a network to its layers outside of the registered modules."""

from __future__ import annotations

import builtins
import contextlib
import gc
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType)
# Searched separately.
_REGISTERED = ("_modules", "_parameters")


def held_outside(model: nn.Module, layers: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    """Find layers referenced by attributes of the model's modules other than as submodules.

    Searched are collections, iterators, partial functions, caches, closures, defaults, bound
    methods, globals used by functions, weak references, optimisers, attributes of classes and of
    other objects, and unregistered modules. A parameter of a layer counts as the layer.

    Args:
        model: The network.
        layers: Modules of it.

    Yields:
        A layer, and the place of the reference, such as "`blocks` of body".
    """
    owners: dict[int, nn.Module] = {}
    for layer in layers:
        owners[id(layer)] = layer
        for parameter in layer.parameters(recurse=False):
            owners[id(parameter)] = layer
            owners[storage_of(parameter) or id(parameter)] = layer
    registered = {id(module) for module in model.modules()}
    seen = set(registered)
    for name, module in model.named_modules():
        if id(module) in owners:
            continue
        where = f" of {name or type(module).__name__}"
        attributes: dict[str, Any] = {}
        for cls in reversed(type(module).__mro__):
            if cls is not object and not _is_torch(cls):
                attributes |= vars(cls)
        attributes |= vars(module)
        for attribute, value in attributes.items():
            if attribute not in _REGISTERED:
                for layer in _layers_in(value, owners, seen):
                    yield layer, f"`{attribute}`{where}"


def _layers_in(value: object, owners: Mapping[int, nn.Module], seen: set[int]) -> Iterator[Any]:
    """Layers reachable from `value`, skipping objects in `seen`."""
    stack = [(value, None)]
    while stack:
        found, home = stack.pop()
        if isinstance(found, _PLAIN):
            continue
        owner = owners.get(id(found))
        if owner is None and isinstance(found, Tensor):
            owner = owners.get(storage_of(found) or 0)
        if owner is not None:
            yield owner
        elif id(found) not in seen and not isinstance(found, Tensor):
            seen.add(id(found))
            stack.extend(_parts(found, home))


def _parts(value: Any, home: Any) -> Iterator[tuple[Any, Any]]:
    """Objects referenced by `value`; `home` are the globals of the function that led to it."""
    if isinstance(value, weakref.ReferenceType):
        yield value(), home
    elif isinstance(value, types.FunctionType):
        yield from _held_by_function(value, home)
    elif isinstance(value, (nn.Module, Optimizer)) or not _is_torch(type(value)):
        yield from ((item, home) for item in gc.get_referents(value))


def _held_by_function(function: types.FunctionType, home: Any) -> Iterator[tuple[Any, Any]]:
    home = function.__globals__ if home is None else home
    everything = (function.__globals__, vars(builtins))
    for item in gc.get_referents(function):
        if not any(item is each for each in everything):
            yield item, home
    # Functions of libraries are skipped: they lead to everything imported.
    if function.__globals__ is home and not function.__module__.startswith("torch."):
        names = set(_names(function.__code__))
        yield from ((home[name], home) for name in sorted(names) if name in home)


def _names(code: types.CodeType) -> Iterator[str]:
    """Names in the code of a function and of its inner functions."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_torch(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "torch"


def storage_of(tensor: Tensor) -> int | None:
    """Key shared by tensors with common memory, also on the meta device.

    None for tensors without storage: sparse tensors and some wrappers.
    """
    with contextlib.suppress(NotImplementedError, RuntimeError):
        return int(tensor.untyped_storage()._cdata)
    return None
