"""Graphs in files: tensors in the layout of safetensors, the graph itself as JSON beside them.

The format is described in docs/runtime.md. Files are not trusted: sizes and offsets are checked
before they are used, and a file either gives a valid graph or an ArtifactError of one line. No code
is run from a file, and no package but numpy is needed to read one.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mulfree import nodes
from mulfree.digest import DIGEST, Entry, digest_of
from mulfree.errors import ArtifactError, choices_message, quoted
from mulfree.files import open_regular, write_atomically
from mulfree.nodes import Node, Value
from mulfree.nodes.fields import Tensor, field_checks, stored_fields, tensors
from mulfree.runtime.graph import Graph, Input

VERSION = 1
MAX_HEADER_BYTES = 8 * 2**20
"""More than the largest graph needs; bounds what reading the JSON takes."""
MAX_STREAM_BYTES = 2**30
"""Most that is read of a file object, which may have no end."""

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8
_METADATA = "__metadata__"
_KEY = "mulfree"
_INPUT_TABLE = "input_table"
_DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
# Nodes that were removed, with the option of `quantize` that they were written for.
_REMOVED = {
    "select": "filter groups (`groups`)",
    "conv2d_float": "floating-point ends (`edges`)",
    "linear_float": "floating-point ends (`edges`)",
}


class _InvalidError(Exception):
    """A requirement that a file does not meet; `load` adds which file it is."""


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes a graph to one file, which appears under its name only when it is complete.

    Args:
        graph: The network.
        path: The file, replaced if it exists.

    Raises:
        ArtifactError: As `to_bytes`.
        OSError: The file cannot be written.
    """
    write_atomically(Path(path), to_bytes(graph))


def to_bytes(graph: Graph) -> bytes:
    """The content of a graph's file; equal graphs give equal bytes.

    Raises:
        ArtifactError: Its names are so long that no file may have such a header.
    """
    named = {_INPUT_TABLE: graph.input.table}
    for node in graph.nodes:
        named |= {f"{node.name}.{name}": tensor for name, tensor in tensors(node).items()}
    # Wide elements first: every tensor then begins at a multiple of its element's size.
    ordered = sorted(named.items(), key=lambda item: (-item[1].itemsize, item[0]))
    metadata = {_KEY: _compact(_description(graph))}
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


def _entry(name: str, tensor: NDArray[Any]) -> Entry:
    return Entry(name, _CODES[tensor.dtype], tensor.shape, tensor.data)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _description(graph: Graph) -> dict[str, Any]:
    """The graph without its tensors, as JSON values."""
    return {
        "version": VERSION,
        "name": graph.name,
        "classes": graph.classes,
        "input": _plain_fields(graph.input),
        "values": [_plain_fields(value) for value in graph.values],
        "nodes": [{"op": node.op, **_plain_fields(node)} for node in graph.nodes],
    }


def _plain_fields(thing: object) -> dict[str, Any]:
    return {stored: getattr(thing, name) for name, stored in stored_fields(type(thing)).items()}


def load(path: str | os.PathLike[str]) -> Graph:
    """The graph of a file of `save`; its tensors stay in the file, mapped into memory.

    Raises:
        ArtifactError: No such file, or one that is damaged or not what it claims.
    """
    try:
        return _graph(_mapped(Path(path)))
    except _InvalidError as error:
        raise ArtifactError(f"runtime.load: `path` must {error}, got {os.fspath(path)}") from error
    except ArtifactError as error:
        raise ArtifactError(
            f"runtime.load: `path` must hold a valid graph, got {os.fspath(path)} ({error})"
        ) from error


def from_bytes(content: bytes | bytearray | memoryview) -> Graph:
    """The graph of a file's content.

    Raises:
        ArtifactError: It is damaged or not what it claims.
    """
    # What may change later is copied: a graph is checked once.
    fixed = content if isinstance(content, bytes) else bytes(content)
    try:
        return _graph(np.frombuffer(fixed, np.uint8))
    except _InvalidError as error:
        raise ArtifactError(
            f"runtime.from_bytes: `content` must {error}, got {len(fixed)} bytes"
        ) from error


def from_file(file: BinaryIO) -> Graph:
    """The graph in the rest of a file object that is open for reading bytes.

    Raises:
        ArtifactError: It cannot be read, or gives no bytes, more than `MAX_STREAM_BYTES` of them,
            or others than those of a graph.
    """
    parts: list[bytes] = []
    size = 0
    while size <= MAX_STREAM_BYTES:
        try:
            part = file.read(MAX_STREAM_BYTES + 1 - size)
        except Exception as error:  # any: files are not only those of the system
            reason = quoted(str(error))
            raise ArtifactError(
                f"runtime.from_file: `file` must be readable, got {type(error).__name__} {reason}"
            ) from error
        if not isinstance(part, bytes):
            raise ArtifactError(
                f"runtime.from_file: `file` must be open in binary mode, got {quoted(file)}"
            )
        if not part:
            return from_bytes(b"".join(parts))
        parts.append(part)
        size += len(part)
    raise ArtifactError(
        f"runtime.from_file: `file` must have at most {MAX_STREAM_BYTES} bytes, got more"
    )


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        # Not a pipe or a device, which would block; an empty file cannot be mapped.
        if not path.is_file() or path.stat().st_size == 0:
            raise _InvalidError("be a file with content")
        with open_regular(path) as file:
            return np.memmap(file, np.uint8, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise _InvalidError(f"be a readable file ({error})") from error


def _graph(content: NDArray[np.uint8]) -> Graph:
    if content.size < _LENGTH.size:
        raise _InvalidError(f"have more than the {_LENGTH.size} bytes of a length")
    (length,) = _LENGTH.unpack(content[: _LENGTH.size].tobytes())
    start = _LENGTH.size + length
    if length > MAX_HEADER_BYTES or start > content.size:
        raise _InvalidError(
            f"have a header of at most {MAX_HEADER_BYTES} bytes within its {content.size}, "
            f"not of {length}; artifacts are written by `mulfree quantize`"
        )
    if start % _ALIGNMENT:
        raise _InvalidError(f"have a header that ends at a multiple of {_ALIGNMENT} bytes")
    header = _object(_json(content[_LENGTH.size : start].tobytes()), "header")
    metadata = _object(header.pop(_METADATA, None), _METADATA)
    description = metadata.get(_KEY)
    if not isinstance(description, str):
        raise _InvalidError(
            f"be an artifact of mulfree, as `mulfree quantize` writes (with a text {_KEY!r} in "
            f"{_METADATA})"
        )
    for name in sorted(set(metadata) - {_KEY, DIGEST}):
        raise _InvalidError(f"not have {reprlib.repr(name)} in {_METADATA}")
    tensors = _tensors(header, content[start:])
    # Files of older versions have none.
    if DIGEST in metadata:
        found = digest_of({_KEY: description}, (_entry(*item) for item in tensors.items()))
        if metadata[DIGEST] != found:
            raise _InvalidError(f"have the {DIGEST} that its header names: the file is damaged")
    graph = _object(_json(description.encode(errors="replace")), _KEY)
    version = graph.pop("version", None)
    if type(version) is not int or version != VERSION:
        raise _InvalidError(f"have version {VERSION}, not {reprlib.repr(version)}")
    return _built(graph, tensors)


def _json(text: bytes) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = reprlib.repr(str(error))
        raise _InvalidError(f"have valid JSON in its header ({reason})") from error


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _InvalidError(f"have an object as {what}")
    return value


def _fields(value: object, what: str, names: Sequence[str]) -> dict[str, Any]:
    """A JSON object with exactly the keys `names`, its lists as tuples."""
    given = _object(value, what)
    for name in sorted(set(given) ^ set(names)):
        verb = "have" if name in names else "not have"
        raise _InvalidError(f"{verb} {reprlib.repr(name)} in {what}")
    return {name: tuple(item) if isinstance(item, list) else item for name, item in given.items()}


def _tensors(header: Mapping[str, object], data: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Views of all tensors; together they are the data, without gap or overlap."""
    tensors: dict[str, NDArray[Any]] = {}
    spans = []
    for name, entry in header.items():
        what = f"tensor {reprlib.repr(name)}"
        given = _fields(entry, what, ("dtype", "shape", "data_offsets"))
        code, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
        if not isinstance(code, str) or code not in _DTYPES:
            raise _InvalidError(f"have a dtype of {', '.join(sorted(_DTYPES))} in {what}")
        dtype = _DTYPES[code]
        if not _whole(shape, 1) or not 1 <= len(shape) <= 4:
            raise _InvalidError(f"have 1 to 4 positive sizes as shape in {what}")
        if not _whole(offsets, 0) or len(offsets) != 2:
            raise _InvalidError(f"have two data_offsets in {what}")
        begin, end = offsets
        size = math.prod(shape) * dtype.itemsize
        if end > data.size or end - begin != size or begin % dtype.itemsize:
            raise _InvalidError(
                f"have aligned data_offsets within {data.size} bytes that fit the shape in {what}"
            )
        tensors[name] = data[begin:end].view(dtype).reshape(shape)
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _InvalidError("have tensors side by side, without gap or overlap")
        position = end
    if position != data.size:
        raise _InvalidError(f"end with its last tensor, after {position} bytes of data")
    return tensors


def _whole(values: object, low: int) -> bool:
    return isinstance(values, tuple) and all(type(item) is int and item >= low for item in values)


def _built(description: object, tensors: dict[str, NDArray[Any]]) -> Graph:
    names = ("name", "classes", "input", "values", "nodes")
    graph = _fields(description, "the graph", names)
    for name in ("values", "nodes"):
        if not isinstance(graph[name], tuple):
            raise _InvalidError(f"have a list of {name}")
    given = _arguments(graph["input"], "input", Input)
    table = _taken(tensors, _INPUT_TABLE)
    made = Graph(
        name=graph["name"],
        input=Input(**given, table=table),
        values=tuple(
            Value(**_arguments(value, f"values[{index}]", Value))
            for index, value in enumerate(graph["values"])
        ),
        nodes=tuple(
            _node(node, f"nodes[{index}]", tensors) for index, node in enumerate(graph["nodes"])
        ),
        classes=graph["classes"],
    )
    for name in tensors:
        raise _InvalidError(f"have no tensors but the graph's, as {reprlib.repr(name)}")
    return made


def _arguments(description: object, what: str, kind: type, *others: str) -> dict[str, Any]:
    """Return the arguments of a dataclass but its tensors; `others` are further keys."""
    names = stored_fields(kind)
    given = _fields(description, what, (*others, *names.values()))
    return {name: given[stored] for name, stored in names.items()}


def _node(description: object, what: str, tensors: dict[str, NDArray[Any]]) -> Node:
    op = _object(description, what).get("op")
    if isinstance(op, str) and op in _REMOVED:
        raise ArtifactError(
            f"Graph: `{what}.op` must be a node of this version, got {op!r}, which earlier "
            f"versions wrote for {_REMOVED[op]}: quantise the network again"
        )
    if not isinstance(op, str) or op not in nodes.NODES:
        raise ArtifactError(choices_message("Graph", f"{what}.op", reprlib.repr(op), nodes.NODES))
    kind = nodes.get_node(op)
    given = _arguments(description, what, kind, "op")
    for name, check in field_checks(kind).items():
        if isinstance(check, Tensor):
            given[name] = _taken(tensors, f"{given['name']}.{name}")
    return kind(**given)


def _taken(tensors: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """The tensor of that name, which no other node may use."""
    if name not in tensors:
        raise _InvalidError(f"have the tensor {reprlib.repr(name)}")
    return tensors.pop(name)
