"""Digest of the content of a safetensors file, stored in its metadata.

A flipped bit in a tensor gives another valid tensor: only a digest detects it. It covers the
content and not the layout, so a file rewritten by another tool keeps its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

DIGEST = "sha256"
"""Key of the digest in the metadata of a file."""


class Entry(NamedTuple):
    """A tensor of a file.

    Attributes:
        name: Its key.
        dtype: Code of its element type in safetensors, such as "F32".
        shape: Its sizes.
        data: Its elements, little-endian, in C order.
    """

    name: str
    dtype: str
    shape: Sequence[int]
    data: bytes | memoryview


def digest_of(metadata: Mapping[str, str], entries: Iterable[Entry]) -> str:
    """Hexadecimal SHA-256 of the metadata without the digest and of the tensors by name."""
    digest = hashlib.sha256()
    own = sorted((key, value) for key, value in metadata.items() if key != DIGEST)
    digest.update(json.dumps(own).encode())
    for entry in sorted(entries, key=lambda entry: entry.name):
        digest.update(json.dumps([entry.name, entry.dtype, list(entry.shape)]).encode())
        digest.update(entry.data)
    return digest.hexdigest()
