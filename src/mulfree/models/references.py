"""References of a network to its layers outside of the registered modules."""

from __future__ import annotations

import contextlib
import functools
import gc
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType)
_COLLECTIONS = (list, tuple, set, frozenset, deque)
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
            if not _is_torch(cls):
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
    if isinstance(value, Mapping):
        with contextlib.suppress(Exception):  # A user's mapping may raise anything.
            yield from ((item, home) for pair in list(value.items()) for item in pair)
    elif isinstance(value, _COLLECTIONS):
        yield from ((item, home) for item in value)
    elif isinstance(value, functools.partial):
        yield from ((item, home) for item in (value.func, value.args, value.keywords))
    elif isinstance(value, types.MethodType):
        yield from ((value.__self__, home), (value.__func__, home))
    elif isinstance(value, (staticmethod, classmethod)):
        yield value.__func__, home
    elif isinstance(value, property):
        yield from ((item, home) for item in (value.fget, value.fset))
    elif isinstance(value, functools.cached_property):
        yield value.func, home
    elif isinstance(value, weakref.ReferenceType):
        yield value(), home
    elif isinstance(value, types.FunctionType):
        yield from _held_by_function(value, home)
    elif type(value).__module__ in ("builtins", "functools"):
        # Iterators, dictionary views, generators, caches: no attributes.
        yield from ((item, home) for item in gc.get_referents(value))
    elif isinstance(value, (nn.Module, Optimizer)) or not _is_torch(type(value)):
        yield from _attributes(value, home)


def _held_by_function(function: types.FunctionType, home: Any) -> Iterator[tuple[Any, Any]]:
    home = function.__globals__ if home is None else home
    yield function.__defaults__, home
    yield function.__kwdefaults__, home
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # Empty.
            yield cell.cell_contents, home
    # Functions of libraries are skipped: they lead to everything imported.
    if function.__globals__ is home and not function.__module__.startswith("torch."):
        names = set(_names(function.__code__))
        yield from ((home[name], home) for name in sorted(names) if name in home)
    yield vars(function), home


def _names(code: types.CodeType) -> Iterator[str]:
    """Names in the code of a function and of its inner functions."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _attributes(value: Any, home: Any) -> Iterator[tuple[Any, Any]]:
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        yield from ((item, home) for item in list(attributes.values()))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            with contextlib.suppress(AttributeError):
                yield object.__getattribute__(value, slot), home


def _is_torch(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("torch", "builtins")


def storage_of(tensor: Tensor) -> int | None:
    """Key shared by tensors with common memory, also on the meta device.

    None for tensors without storage: sparse tensors and some wrappers.
    """
    with contextlib.suppress(NotImplementedError, RuntimeError):
        return int(tensor.untyped_storage()._cdata)
    return None
