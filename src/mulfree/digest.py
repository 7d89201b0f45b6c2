"""The digest that files in the layout of safetensors carry in their own metadata.

A flipped bit in a tensor gives another valid tensor: only a digest tells. It covers what a file
holds and not how it is laid out, so that a file rewritten by another tool keeps its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

DIGEST = "sha256"
"""Key of the digest in the metadata of a file."""


class Entry(NamedTuple):
    """A tensor as a file holds it.

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
    """SHA-256 of metadata, all but the digest itself, and tensors by name; hexadecimal."""
    digest = hashlib.sha256()
    own = sorted((key, value) for key, value in metadata.items() if key != DIGEST)
    digest.update(json.dumps(own).encode())
    for entry in sorted(entries, key=lambda entry: entry.name):
        digest.update(json.dumps([entry.name, entry.dtype, list(entry.shape)]).encode())
        digest.update(entry.data)
    return digest.hexdigest()
