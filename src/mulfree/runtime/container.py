"""The container of artifacts: JSON and tensors in the layout of safetensors.

Files are not trusted: sizes and offsets are checked before they are used. The layout is described
in docs/runtime.md.
"""

from __future__ import annotations

import json
import math
import reprlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mulfree.digest import DIGEST, Entry, digest_of
from mulfree.errors import ArtifactError

MAX_HEADER_BYTES = 8 * 2**20
"""More than the largest graph needs; bounds the memory for reading the JSON."""

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8
_METADATA = "__metadata__"
_KEY = "mulfree"
_DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


class InvalidFileError(Exception):
    """A requirement that a file does not meet; readers add the name of the file."""


def pack(description: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the content of a file.

    Raises:
        ArtifactError: The header is too long.
    """
    # Wide elements first: every tensor then begins at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    metadata = {_KEY: _compact(description)}
    metadata[DIGEST] = digest_of(metadata, (_entry(*item) for item in ordered))
    header: dict[str, Any] = {_METADATA: metadata}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = _compact(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise ArtifactError(
            f"runtime.save: `graph` must have a header of at most {MAX_HEADER_BYTES} bytes, "
            f"got {len(text)}"
        )
    return b"".join([_LENGTH.pack(len(text)), text, *(tensor.tobytes() for _, tensor in ordered)])


def unpack(content: NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the description and the tensors, which stay in `content`.

    Raises:
        InvalidFileError: The content is damaged or not of this layout.
    """
    if content.size < _LENGTH.size:
        raise InvalidFileError(f"have more than the {_LENGTH.size} bytes of a length")
    (length,) = _LENGTH.unpack(content[: _LENGTH.size].tobytes())
    start = _LENGTH.size + length
    if length > MAX_HEADER_BYTES or start > content.size:
        raise InvalidFileError(
            f"have a header of at most {MAX_HEADER_BYTES} bytes within its {content.size}, "
            f"not of {length}; artifacts are written by `mulfree quantize`"
        )
    if start % _ALIGNMENT:
        raise InvalidFileError(f"have a header that ends at a multiple of {_ALIGNMENT} bytes")
    header = mapping(_json(content[_LENGTH.size : start].tobytes()), "header")
    metadata = mapping(header.pop(_METADATA, None), _METADATA)
    description = metadata.get(_KEY)
    if not isinstance(description, str):
        raise InvalidFileError(
            f"be an artifact of mulfree, as `mulfree quantize` writes (with a text {_KEY!r} in "
            f"{_METADATA})"
        )
    for name in sorted(set(metadata) - {_KEY, DIGEST}):
        raise InvalidFileError(f"not have {reprlib.repr(name)} in {_METADATA}")
    tensors = _tensors(header, content[start:])
    # Files of older versions have none.
    if DIGEST in metadata:
        found = digest_of({_KEY: description}, (_entry(*item) for item in tensors.items()))
        if metadata[DIGEST] != found:
            raise InvalidFileError(f"have the {DIGEST} that its header names: the file is damaged")
    return mapping(_json(description.encode(errors="replace")), _KEY), tensors


def _entry(name: str, tensor: NDArray[Any]) -> Entry:
    return Entry(name, _CODES[tensor.dtype], tensor.shape, tensor.data)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _json(text: bytes) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = reprlib.repr(str(error))
        raise InvalidFileError(f"have valid JSON in its header ({reason})") from error


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def mapping(value: object, what: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        InvalidFileError: It is none.
    """
    if not isinstance(value, dict):
        raise InvalidFileError(f"have an object as {what}")
    return value


def fields(value: object, what: str, names: Sequence[str]) -> dict[str, Any]:
    """Return a JSON object with exactly the keys `names`, its lists as tuples.

    Raises:
        InvalidFileError: It is none, or has other keys.
    """
    given = mapping(value, what)
    for name in sorted(set(given) ^ set(names)):
        verb = "have" if name in names else "not have"
        raise InvalidFileError(f"{verb} {reprlib.repr(name)} in {what}")
    return {name: tuple(item) if isinstance(item, list) else item for name, item in given.items()}


def _tensors(header: Mapping[str, object], data: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return views of all tensors; together they are the data, without gap or overlap."""
    tensors: dict[str, NDArray[Any]] = {}
    spans = []
    for name, entry in header.items():
        what = f"tensor {reprlib.repr(name)}"
        given = fields(entry, what, ("dtype", "shape", "data_offsets"))
        code, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
        if not isinstance(code, str) or code not in _DTYPES:
            raise InvalidFileError(f"have a dtype of {', '.join(sorted(_DTYPES))} in {what}")
        dtype = _DTYPES[code]
        if not _whole(shape, 1) or not 1 <= len(shape) <= 4:
            raise InvalidFileError(f"have 1 to 4 positive sizes as shape in {what}")
        if not _whole(offsets, 0) or len(offsets) != 2:
            raise InvalidFileError(f"have two data_offsets in {what}")
        begin, end = offsets
        size = math.prod(shape) * dtype.itemsize
        if end > data.size or end - begin != size or begin % dtype.itemsize:
            raise InvalidFileError(
                f"have aligned data_offsets within {data.size} bytes that fit the shape in {what}"
            )
        tensors[name] = data[begin:end].view(dtype).reshape(shape)
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise InvalidFileError("have tensors side by side, without gap or overlap")
        position = end
    if position != data.size:
        raise InvalidFileError(f"end with its last tensor, after {position} bytes of data")
    return tensors


def _whole(values: object, low: int) -> bool:
    return isinstance(values, tuple) and all(type(item) is int and item >= low for item in values)
