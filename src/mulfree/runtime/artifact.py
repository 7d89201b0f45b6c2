"""Graphs in files: tensors in the layout of safetensors, the graph itself as JSON beside them.

The format is described in docs/runtime.md. Files are not trusted: sizes and offsets are checked
before they are used, and a file either gives a valid graph or an ArtifactError of one line. No code
is run from a file, and no package but numpy is needed to read one.
"""

from __future__ import annotations

import os
import reprlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mulfree import nodes
from mulfree.errors import ArtifactError, choices_message, quoted
from mulfree.files import open_regular, write_atomically
from mulfree.nodes import Node, Value
from mulfree.nodes.fields import Tensor, field_checks, stored_fields, tensors
from mulfree.runtime.container import InvalidFileError, fields, mapping, pack, unpack
from mulfree.runtime.graph import Graph, Input

VERSION = 1
MAX_STREAM_BYTES = 2**30
"""Most that is read of a file object, which may have no end."""

_INPUT_TABLE = "input_table"
# Nodes that were removed, with the option of `quantize` that they were written for.
_REMOVED = {
    "select": "filter groups (`groups`)",
    "conv2d_float": "floating-point ends (`edges`)",
    "linear_float": "floating-point ends (`edges`)",
}


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
    return pack(_description(graph), named)


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
    except InvalidFileError as error:
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
    except InvalidFileError as error:
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
            raise InvalidFileError("be a file with content")
        with open_regular(path) as file:
            return np.memmap(file, np.uint8, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise InvalidFileError(f"be a readable file ({error})") from error


def _graph(content: NDArray[np.uint8]) -> Graph:
    description, tensors = unpack(content)
    version = description.pop("version", None)
    if type(version) is not int or version != VERSION:
        raise InvalidFileError(f"have version {VERSION}, not {reprlib.repr(version)}")
    return _built(description, tensors)


def _built(description: object, tensors: dict[str, NDArray[Any]]) -> Graph:
    names = ("name", "classes", "input", "values", "nodes")
    graph = fields(description, "the graph", names)
    for name in ("values", "nodes"):
        if not isinstance(graph[name], tuple):
            raise InvalidFileError(f"have a list of {name}")
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
        raise InvalidFileError(f"have no tensors but the graph's, as {reprlib.repr(name)}")
    return made


def _arguments(description: object, what: str, kind: type, *others: str) -> dict[str, Any]:
    """Return the arguments of a dataclass but its tensors; `others` are further keys."""
    names = stored_fields(kind)
    given = fields(description, what, (*others, *names.values()))
    return {name: given[stored] for name, stored in names.items()}


def _node(description: object, what: str, tensors: dict[str, NDArray[Any]]) -> Node:
    op = mapping(description, what).get("op")
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
        raise InvalidFileError(f"have the tensor {reprlib.repr(name)}")
    return tensors.pop(name)
