"""Names of classes, as files and folders give them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

from mulfree.errors import ArtifactError, quoted
from mulfree.nodes.fields import MAX_NAME


def class_names(names: Iterable[str], label: str) -> tuple[str, ...]:
    """Names that a terminal, a table and a quantised network can hold, in the same order.

    Letters and their accents become one character (Unicode's NFC; macOS writes two), every kind of
    space a plain one, and what has no width of its own (joiners of emoji,
    marks of direction) is left out.

    Args:
        names: As they are given.
        label: Begins an error message.

    Raises:
        ArtifactError: If a name is too long or not printable, or two become the same.
    """
    plain = [_plain(name) for name in names]
    for name in plain:
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise ArtifactError(
                f"{label}: a class must have a printable name of 1..{MAX_NAME} characters, got "
                f"{quoted(name)} of {len(name)}"
            )
    ((most, count),) = Counter(plain).most_common(1) or [("", 0)]
    if count > 1:
        raise ArtifactError(
            f"{label}: classes must have different names, got {count} that look like {quoted(most)}"
        )
    return tuple(plain)


def _plain(name: str) -> str:
    kinds = ((character, unicodedata.category(character)) for character in name)
    plain = (" " if kind[0] == "Z" else "" if kind == "Cf" else c for c, kind in kinds)
    return unicodedata.normalize("NFC", "".join(plain))
