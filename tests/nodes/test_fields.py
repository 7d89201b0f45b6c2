from __future__ import annotations

import numpy as np
import pytest

from mulfree.nodes.fields import (
    FieldCheck,
    Floats,
    Integer,
    Integers,
    Labels,
    Scale,
    Tensor,
    Text,
    Texts,
    artifact_error,
    field_checks,
    tensors,
)
from mulfree.nodes.linear import Linear
from mulfree.nodes.lut import Lut
from mulfree.nodes.pad import Pad


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Text(), ["x", "é", "a" * 200], ["", "a" * 201, "\n", "\ud800", None, 1, b"x"]),
        (Text(optional=True), ["x", None], ["", 0, False]),
        (Texts(), [(), ("a", "b")], [["a"], ("a", ""), "ab", (1,), None]),
        (
            Labels(),
            [None, (), ("a" * 1024, "a\u202fb", "\u00a0", "\u3000", "\U0001f469\u200d\U0001f52c")],
            [
                0,
                [None],
                *((x,) for x in (None, "a" * 1025, "", "a\n", "\x1b[0m", "\ud800", "\u2028")),
            ],
        ),
        (Integer(-1, 3), [-1, 0, 3], [-2, 4, 1.0, True, None, "1", np.int64(1)]),
        (Integers(2, 1, 5), [(1, 5)], [(1,), (1, 2, 3), (0, 1), [1, 2], (True, 2), 1, "12"]),
        (Scale(), [1e-30, 0.5, 1e30], [0.0, -1.0, 1e-31, 1e31, 1, np.float64(1), float("nan")]),
        (Floats(), [(), (0.0, -1.5)], [(1,), [1.0], (float("inf"),), 1.0]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, FieldCheck) else "",
)
def test_what_holds(rule: FieldCheck, good: list[object], bad: list[object]) -> None:
    assert [value for value in good if not rule.holds(value)] == []
    assert [value for value in bad if rule.holds(value)] == []


def test_what_holds_of_arrays() -> None:
    rule = Tensor("int64", 1)
    assert rule.holds(np.zeros(3, np.int64))
    assert rule.holds(np.zeros(0, np.int64))
    unaligned = np.zeros(25, np.uint8)[1:].view(np.int64)
    others = (np.zeros(3, np.int32), np.zeros((1, 3), np.int64), [0, 0], unaligned)
    for value in (*others, np.zeros(6, np.int64)[::2], np.zeros(3, ">i8")):
        assert not rule.holds(value)
    assert Tensor("float32", 1).holds(np.ones(2, np.float32))
    assert not Tensor("float32", 1).holds(np.array([1, np.nan], np.float32))


def test_a_rule_has_to_decide() -> None:
    with pytest.raises(NotImplementedError):
        FieldCheck("be anything").holds(0)


def test_fields_without_a_rule_are_left_out() -> None:
    assert list(field_checks(Pad)) == ["name", "input", "output", "left", "right", "top", "bottom"]
    assert list(field_checks(Linear)) == ["name", "input", "output", "weight", "scale", "bias"]


def test_tensors_of_a_thing() -> None:
    table = np.zeros((1, 256), np.uint8)
    assert tensors(Pad(name="p", input="x", output="y", left=0, right=0, top=0, bottom=0)) == {}
    assert tensors(Lut(name="l", input="x", output="y", table=table)) == {"table": table}


def test_refusals_stay_short() -> None:
    assert str(artifact_error("a.b", "be small", 10**4000)).startswith(
        "Graph: `a.b` must be small, got 1"
    )
    assert len(str(artifact_error("a.b", "be small", 10**4000))) < 100
    assert str(artifact_error("a", "fit", np.zeros((2, 3), np.int8))).endswith("got int8[2, 3]")
