"""Plain values checked against type hints, so that files need no parser that builds objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

HALVES = re.compile("[\ud800-\udfff]")
"""Halves of characters, as of bytes that are no UTF-8; no file can hold them."""
_SCALARS = (bool, int, float, str, NoneType)


def typed(value: object, hint: Any) -> Any:
    """`value` where it is of the type of a hint; an integer is also a float, a list a tuple.

    Args:
        value: Anything.
        hint: bool, int, float, str, None, a `Literal` of words, `list[...]`, `tuple[..., ...]`,
            `dict[str, ...]`, or a union of these. Which of several words it is, is for the owner
            of the option to check.

    Returns:
        Plain values that share no list or table with `value`.

    Raises:
        TypeError: It is of another type, or holds halves of characters; its text is what is
            required.
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
    """The members of a union, also of unions in it; a hint that is none is its only member."""
    if get_origin(hint) not in (Union, UnionType):
        return (hint,)
    return tuple(kind for part in get_args(hint) for kind in members(part))


def names(kinds: Sequence[Any]) -> list[str]:
    """The types of hints for an error message."""
    found = ("null" if kind is NoneType else _kind(kind).__name__ for kind in kinds)
    return list(dict.fromkeys(found))


def is_plain(hint: Any) -> bool:
    """Whether only plain values are of a hint: no `Any`, no class and nothing to call."""
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
