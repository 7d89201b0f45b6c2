"""Files of `torch.save` that carry a digest of themselves, and are checked before they are read.

A flipped bit in a tensor gives another valid tensor, and torch compares no checksums. The SHA-256
stands in the comment at the end of the archive, where torch and other readers pass over it.
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import re
import struct
import zipfile
from typing import Any

import torch

_PREFIX = b"mulfree sha256:"
_COMMENT = len(_PREFIX) + 2 * hashlib.sha256().digest_size
# The end of an archive: its signature, and where the length of the comment stands in it.
_END, _END_SIZE = b"PK\x05\x06", 22
_END64, _END64_SIZE = b"PK\x06\x06", 56
_LOCATOR, _LOCATOR_SIZE = b"PK\x06\x07", 20
_LENGTH = struct.Struct("<H")
# What the content is made of. Others that torch admits make as much memory as they are told to.
_NAMES = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|meta_tensor_no_storage)"
    r"|torch (Size|[A-Z][A-Za-z0-9]*Storage|[a-z]+[0-9]+|bool)"
)


def to_bytes(content: Any) -> bytes:
    """What `torch.save` makes of `content`, with its digest."""
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
    """The content of a file of `to_bytes`, or of one of `torch.save` without a digest.

    Only tensors, on the CPU, and plain values are accepted, and no code is run.

    Raises:
        ValueError: It is damaged, or something else.
    """
    end = _checked_end(file)
    _check_records(file, end)
    try:
        return torch.load(io.BytesIO(file), map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler meets arbitrary bytes here, and raises whatever these make it raise.
        raise ValueError(f"{type(error).__name__} in its content") from error


def _checked_end(file: bytes) -> int:
    """Where the end of the archive begins, once its digest was compared."""
    comment = len(file) - _COMMENT
    if file[comment:].startswith(_PREFIX) and comment > 0:
        end = comment - _END_SIZE
        with memoryview(file) as view:
            digest = hashlib.sha256(view[:comment]).hexdigest()
        if file[comment + len(_PREFIX) :] != digest.encode():
            raise ValueError("its content is not that of its digest")
    else:
        end = len(file) - _END_SIZE
    if end < 0 or file[end : end + len(_END)] != _END:
        raise ValueError("it does not end as a file of torch.save")
    (length,) = _LENGTH.unpack_from(file, end + _END_SIZE - _LENGTH.size)
    if end + _END_SIZE + length != len(file):
        raise ValueError("it does not end as a file of torch.save")
    return end


def _check_records(file: bytes, end: int) -> None:
    """Refuse records that are larger than the file, which only a bomb has: torch stores them.

    Python and torch have to find the same list of records: the one in front of the end.
    """
    locator = end - _LOCATOR_SIZE
    last = locator - _END64_SIZE
    if file[max(0, locator) :].startswith(_LOCATOR) and last > 0:
        (offset,) = struct.unpack_from("<Q", file, locator + 8)
        size, start = struct.unpack_from("<QQ", file, last + 40)
        if offset != last or not file[last:].startswith(_END64):
            raise ValueError("its list of records is not in front of its end")
    else:
        last = end
        size, start = struct.unpack_from("<II", file, end + 12)
    if start + size != last:
        raise ValueError("its list of records is not in front of its end")
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ValueError("its records are compressed")
            if sum(record.file_size for record in records) > len(file):
                raise ValueError("its records are larger than itself")
            for record in records:
                # Torch looks for names in any case.
                if record.filename.lower().endswith(".pkl"):
                    _check_names(archive.read(record))
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, struct.error) as error:
        raise ValueError("its list of records is damaged") from error


def _check_names(pickled: bytes) -> None:
    """Refuse a pickle that names anything but what tensors and tables are made of."""
    for operation, name, _ in pickletools.genops(pickled):
        if operation.name == "GLOBAL" and not _NAMES.fullmatch(str(name)):
            raise ValueError("it holds more than tensors and plain values")
