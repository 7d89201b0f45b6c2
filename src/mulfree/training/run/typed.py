"""Plain values checked against type hints, without a parser that builds objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

HALVES = re.compile("[\ud800-\udfff]")
"""Halves of characters, as from bytes that are not UTF-8; no file can hold them."""
_SCALARS = (bool, int, float, str, NoneType)


def typed(value: object, hint: Any) -> Any:
    """Return `value` if it has the type of a hint; an integer is also a float, a list a tuple.

    Args:
        value: Anything.
        hint: bool, int, float, str, None, a `Literal` of words, `list[...]`, `tuple[..., ...]`,
            `dict[str, ...]`, or a union of these. The words of a `Literal` are not compared: the
            owner of the option does so.

    Returns:
        Plain values that share no list or table with `value`.

    Raises:
        TypeError: It has another type, or holds halves of characters; the message is the
            requirement.
    """
    kinds = members(hint)
    for kind in kinds:
        if type(value) is _kind(kind):
            return _copied(value, kind)
    # Larger integers have no float.
    if type(value) is int and float in kinds and abs(value) < 2**1000:
        return float(value)
    for kind in kinds:
        if type(value) is list and _kind(kind) is tuple:
            return tuple(_copied(value, kind))
    raise TypeError(" or ".join(names(kinds)))


def members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, flattened; any other hint is its only member."""
    if get_origin(hint) not in (Union, UnionType):
        return (hint,)
    return tuple(kind for part in get_args(hint) for kind in members(part))


def names(kinds: Sequence[Any]) -> list[str]:
    """Return the names of types for an error message."""
    found = ("null" if kind is NoneType else _kind(kind).__name__ for kind in kinds)
    return list(dict.fromkeys(found))


def is_plain(hint: Any) -> bool:
    """Return whether a hint admits plain values only: no `Any`, no class, no callable."""
    arguments = get_args(hint)
    match get_origin(hint):
        case None:
            return hint in _SCALARS
        case origin if origin is Literal:
            return all(isinstance(word, str) for word in arguments)
        case origin if origin is dict:
            return arguments[0] is str and is_plain(arguments[1])
        case origin if origin is list or origin is tuple:
            return all(is_plain(part) for part in arguments if part is not Ellipsis)
        case origin if origin in (Union, UnionType):
            return all(map(is_plain, arguments))
    return False


def _kind(hint: Any) -> type:
    origin = get_origin(hint)
    kind: type = str if origin is Literal else origin or hint
    return kind


def _copied(value: Any, hint: Any) -> Any:
    if isinstance(value, str) and HALVES.search(value):
        raise TypeError("text of whole characters")
    arguments = get_args(hint)
    if isinstance(value, (list, tuple)):
        return type(value)(_inner(item, arguments[0], hint) for item in value)
    if isinstance(value, dict):
        return {_inner(k, str, hint): _inner(v, arguments[1], hint) for k, v in value.items()}
    return value


def _inner(value: object, hint: Any, outer: Any) -> Any:
    try:
        return typed(value, hint)
    except TypeError as error:
        raise TypeError(f"{_kind(outer).__name__} of {error}") from error
