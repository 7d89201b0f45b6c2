from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, get_type_hints

import pytest

from mulfree.training import TrainConfig
from mulfree.training.methods import METHODS, get_method
from mulfree.training.run.config import Option
from mulfree.training.run.typed import is_plain, typed


def test_every_option_of_every_configuration_is_plain_data() -> None:
    sections = {type(getattr(TrainConfig(), section.name)) for section in fields(TrainConfig)}
    kinds = {*sections, *(get_method(name).config_class for name in METHODS)}
    assert len(kinds) == 7 + len(METHODS)
    options = {
        f"{kind.__module__}.{option.name}": get_type_hints(kind)[option.name]
        for kind in kinds
        for option in fields(kind)
    }
    assert len(options) > 60
    assert {name: hint for name, hint in options.items() if not is_plain(hint)} == {}


@pytest.mark.parametrize(
    "hint",
    [
        *(Any, object, type, bytes, Callable[[], int], dict, list, tuple, int | Any, list[Any]),
        *(dict[str, Any], dict[int, int], tuple[object, ...], TrainConfig, Literal[1]),
    ],
)
def test_hints_of_more_than_plain_data(hint: Any) -> None:
    assert not is_plain(hint)


@pytest.mark.parametrize(
    ("value", "hint", "found"),
    [
        *((1, int, 1), (True, bool, True), (None, int | None, None), (1, float, 1.0)),
        *((1, float | Literal["x"], 1.0), ("x", float | Literal["x"], "x"), (1, Option, 1)),
        *((["a"], tuple[str, ...], ("a",)), (("a",), tuple[str, ...], ("a",))),
        *(({"a": [1, "x"]}, dict[str, Option], {"a": [1, "x"]}), ({"a": 1}, Option, {"a": 1})),
    ],
)
def test_values_of_a_type(value: object, hint: Any, found: object) -> None:
    given = typed(value, hint)
    assert given == found
    assert type(given) is type(found)


def test_a_table_is_a_copy() -> None:
    inner: list[int] = [1]
    found = typed({"a": inner}, dict[str, Option])
    inner.append(2)
    assert found == {"a": [1]}


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "^int$"),
        (1, bool, "^bool$"),
        (1.0, int | None, "^int or null$"),
        (2**2000, float, "^float$"),
        ("\udcff", str | None, "^text of whole characters$"),
        ({"\ud800": 1}, dict[str, Option], "^dict of text of whole characters$"),
        (["a", 1], tuple[str, ...], "^tuple of str$"),
        ("a", list[str], "^list$"),
        ({1: 2}, dict[str, Option], "^dict of str$"),
        (
            {"a": {"b": {"c": {}}}},
            dict[str, Option],
            "^dict of dict of dict of bool or int or float",
        ),
        (object(), Option, "^bool or int or float or str or null or list or dict$"),
    ],
)
def test_values_of_another_type(value: object, hint: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        typed(value, hint)
