"""Untrusted files of `torch.save`, read with time and memory bounded by their size.

`weights_only` runs no code either, but allocates memory by a number in the file, inflates archives,
and hashes tuples that expand exponentially.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import struct
import zipfile
from typing import Any, BinaryIO

import torch

from mulfree.errors import quoted

TENSORS = (
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|meta_tensor_no_storage)"
    r"|torch (Size|[A-Z][A-Za-z0-9]*Storage|[a-z]+[0-9]+|bool)"
)
"""Pattern of the names, as "module name", in pickles of tensors and tables."""

_ZIP = b"PK\x03\x04"
# End of an archive: signature and size.
_END, _END_SIZE = b"PK\x05\x06", 22
_END64, _END64_SIZE = b"PK\x06\x06", 56
_LOCATOR, _LOCATOR_SIZE = b"PK\x06\x07", 20
_MAX_COMMENT = 2**16
# Pickles of the legacy format: three of the format, the content, the keys of its storages.
_PICKLES = 5
# Expanded values of a tuple, and bytes of an integer: hash collisions make tables slow.
_MAX_TUPLE = 4096
_MAX_INTEGER = 9
_HASHED = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE"}


def load(file: BinaryIO, names: str = TENSORS) -> Any:
    """Read the content of a file, tensors on the CPU.

    Args:
        file: The file, at its beginning, in the archive or the legacy format.
        names: Pattern of the allowed names, as "module name".

    Raises:
        ValueError: It is damaged, or holds other names; the reason in one line.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_archive = file.read(len(_ZIP)) == _ZIP
    file.seek(0)
    if is_archive:
        _check_archive(file, size, names)
    else:
        for _ in range(_PICKLES):
            _check_pickle(file, names)
    file.seek(0)
    left = size

    def counted(storage: Any, _location: str) -> Any:
        nonlocal left
        left -= storage.nbytes()
        if left < 0:
            raise ValueError("its tensors are larger than itself")
        return storage

    try:
        return torch.load(file, map_location=counted, weights_only=True)
    # The unpickler raises anything on arbitrary bytes.
    except Exception as error:
        raise ValueError(f"{type(error).__name__} in its content") from error


def _check_archive(file: BinaryIO, size: int, names: str) -> None:
    """Refuse records larger than the file: torch stores them uncompressed.

    Python and torch must find the same list of records: the one before the end.
    """
    tail_size = min(size, _MAX_COMMENT + _END_SIZE + _LOCATOR_SIZE + _END64_SIZE)
    file.seek(size - tail_size)
    tail = file.read()
    end = tail.rfind(_END, 0, len(tail) - _END_SIZE + len(_END))
    if end < 0 or end + _END_SIZE + _unpacked("<H", tail, end + 20)[0] != len(tail):
        raise ValueError("it does not end as a file of torch.save")
    locator = end - _LOCATOR_SIZE
    last = locator - _END64_SIZE
    if tail[max(0, locator) :].startswith(_LOCATOR) and last >= 0:
        (offset,) = _unpacked("<Q", tail, locator + 8)
        length, start = _unpacked("<QQ", tail, last + 40)
        if offset != last + size - tail_size or not tail[last:].startswith(_END64):
            raise ValueError("its list of records is not before its end")
    else:
        last = end
        length, start = _unpacked("<II", tail, end + 12)
    if start + length != last + size - tail_size:
        raise ValueError("its list of records is not before its end")
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ValueError("its records are compressed")
            if sum(record.file_size for record in records) > size:
                raise ValueError("its records are larger than itself")
            for record in records:
                # Torch ignores the case of names.
                if record.filename.lower().endswith(".pkl"):
                    _check_pickle(io.BytesIO(archive.read(record)), names)
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, struct.error) as error:
        raise ValueError("its list of records is damaged") from error


def _unpacked(layout: str, data: bytes, offset: int) -> tuple[int, ...]:
    return struct.unpack_from(layout, data, offset)


def _is_large(value: int) -> bool:
    # The legacy format starts with a larger value.
    return value.bit_length() > 8 * _MAX_INTEGER and value != torch.serialization.MAGIC_NUMBER


def _check_pickle(file: BinaryIO, names: str) -> None:
    """Refuse a pickle of anything but the names and plain values; reads to its end.

    Nothing is built: the stack holds the number of values in each entry, because a tuple that is a
    key is hashed as a whole.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    try:
        for operation, argument, _ in pickletools.genops(file):
            name = operation.name
            if name == "GLOBAL" and not re.fullmatch(names, str(argument)):
                raise ValueError(f"it holds more than tensors and plain values: {quoted(argument)}")
            if isinstance(argument, int) and _is_large(argument):
                raise ValueError("it holds an integer that is too large")
            if name == "MARK":
                marks.append(len(stack))
            elif name.endswith("PUT"):
                memo[argument] = stack[-1]
            elif name.endswith("GET"):
                stack.append(memo[argument])
            else:
                popped = operation.stack_before
                first = len(stack) - len(popped)
                if pickletools.markobject in popped:
                    first = marks.pop() - popped.index(pickletools.markobject)
                if first < 0:
                    raise IndexError
                values = 1 + sum(stack[first:]) if name in _HASHED else 1
                if values > _MAX_TUPLE:
                    raise ValueError(f"it holds a tuple of more than {_MAX_TUPLE} values")
                stack[first:] = [values] * len(operation.stack_after)
    except (IndexError, KeyError, MemoryError) as error:
        raise ValueError("its values are damaged") from error
    except UnicodeDecodeError as error:
        raise ValueError("its names are damaged") from error
