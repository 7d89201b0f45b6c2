"""Normalisation of class names read from files and folders."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

from mulfree.errors import ArtifactError, quoted
from mulfree.nodes.fields import MAX_NAME


def class_names(names: Iterable[str], label: str) -> tuple[str, ...]:
    """Class names safe for terminals, tables and quantised networks, in the given order.

    Letters and accents are composed (NFC; macOS decomposes them), all spaces become plain spaces,
    and characters without width (joiners, direction marks) are dropped.

    Args:
        names: Names as stored.
        label: Start of error messages.

    Raises:
        ArtifactError: A name is too long or not printable, or two names become equal.
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
