"""Files of `torch.save` with a digest that is checked before they are read.

A flipped bit in a tensor gives another valid tensor, and torch compares no checksums. The SHA-256
is stored in the comment at the end of the archive, which torch and other readers skip.
"""

from __future__ import annotations

import hashlib
import io
import struct
from typing import Any

import torch

from mulfree.models.pickles import load

_PREFIX = b"mulfree sha256:"
_COMMENT = len(_PREFIX) + 2 * hashlib.sha256().digest_size
# End record of an archive without a comment; its last field is the length of the comment.
_END, _END_SIZE = b"PK\x05\x06", 22
_LENGTH = struct.Struct("<H")


def to_bytes(content: Any) -> bytes:
    """Return the bytes that `torch.save` writes for `content`, with their digest."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    plain = buffer.tell() - _LENGTH.size
    buffer.seek(plain)
    buffer.write(_LENGTH.pack(_COMMENT))
    with buffer.getbuffer() as written:
        digest = hashlib.sha256(written).hexdigest()
    buffer.write(_PREFIX + digest.encode())
    return buffer.getvalue()


def from_bytes(file: bytes) -> Any:
    """Return the content of a file of `to_bytes`, or of `torch.save` without a digest.

    Only tensors, on the CPU, and plain values are accepted, and no code is run.

    Raises:
        ValueError: It is damaged, or another kind of file.
    """
    _check_digest(file)
    return load(io.BytesIO(file))


def _check_digest(file: bytes) -> None:
    """Refuse a file whose digest does not match; a file without one passes."""
    comment = len(file) - _COMMENT
    if file[comment:].startswith(_PREFIX) and comment > 0:
        with memoryview(file) as view:
            digest = hashlib.sha256(view[:comment]).hexdigest()
        if file[comment + len(_PREFIX) :] != digest.encode():
            raise ValueError("its content is not that of its digest")
    elif len(file) < _END_SIZE or not file[-_END_SIZE:].startswith(_END):
        # Another comment may be a damaged digest.
        raise ValueError("it does not end as a file of torch.save")
