from __future__ import annotations

import pytest

from mulfree.data.classes import class_names
from mulfree.errors import ArtifactError


def test_names_that_a_quantised_network_takes() -> None:
    names = [
        "cat",
        "Labrador\u00a0Retriever",
        "9:41\u202fAM",
        "\u5199\u771f\u3000\u96c6",
        "a\u2028b",
    ]
    assert class_names(names, "x") == (
        *("cat", "Labrador Retriever", "9:41 AM", "\u5199\u771f \u96c6", "a b"),
    )
    assert class_names(["\U0001f469\u200d\U0001f52c", "\u202ea\u00adb"], "x") == (
        *("\U0001f469\U0001f52c", "ab"),
    )
    assert class_names([], "x") == ()
    assert class_names(["x" * 200], "x") == ("x" * 200,)
    assert class_names(["e\u0301", "e"], "x") == ("\u00e9", "e")
    plain = ("nan", "1e5", "-1", "null", "Cat", "cat", "None", "true", "_", "$x^$", "[red]")
    assert class_names(plain, "x") == plain


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", "'' of 0"),
        ("\u200d", "'' of 0"),
        ("a\nb", r"'a\\nb' of 3"),
        ("\x1b[31m", r"'\\x1b\[31m' of 5"),
        ("\udce9", r"'\\udce9' of 1"),
        ("x" * 201, r"'x+\.\.\.x+' of 201"),
    ],
)
def test_names_that_are_refused(name: str, shown: str) -> None:
    with pytest.raises(
        ArtifactError,
        match=rf"^x: a class must have a printable name of 1\.\.200 characters, got {shown}$",
    ):
        class_names(["a", name], "x")


def test_names_that_look_the_same() -> None:
    with pytest.raises(
        ArtifactError, match=r"^x: classes must have different names, got 2 that look like 'a b'$"
    ):
        class_names(["a b", "c", "a\u00a0b"], "x")
    with pytest.raises(ArtifactError, match=r"got 2 that look like '\u00e9'$"):
        class_names(["e\u200d\u0301", "\u00e9"], "x")
