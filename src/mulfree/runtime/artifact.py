"""Graphs in files: tensors in the layout of safetensors, the graph itself as JSON beside them.

The format is described in docs/runtime.md. Files are not trusted: sizes and offsets are checked
before they are used, and a file either gives a valid graph or an ArtifactError of one line. No code
is run from a file, and no package but numpy is needed to read one.
"""

from __future__ import annotations

import dataclasses
import os
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mulfree import nodes
from mulfree.errors import ArtifactError, ConfigError, choices_message, quoted
from mulfree.files import open_regular, write_atomically
from mulfree.nodes import Node, Value
from mulfree.nodes.fields import (
    Tensor,
    Text,
    artifact_error,
    field_checks,
    later_fields,
    stored_fields,
    tensors,
)
from mulfree.runtime.container import InvalidFileError, fields, mapping, pack, unpack
from mulfree.runtime.exits import Exits
from mulfree.runtime.graph import Graph, Input

MAIN = "main"
"""Name of the entry point of a network that has no other."""
MAX_ENTRIES = 64
MAX_STREAM_BYTES = 2**30
"""Most that is read of a file object, which may have no end."""
LOGITS = "logits"
"""Name of the output of a network that has no other."""

_INPUT_TABLE = "input_table"
# Nodes that were removed, with the option of `quantize` that they were written for.
_REMOVED = {
    "select": "filter groups (`groups`)",
    "conv2d_float": "floating-point ends (`edges`)",
    "linear_float": "floating-point ends (`edges`)",
}


def save(graph: Graph | Mapping[str, Graph], path: str | os.PathLike[str]) -> None:
    """Write a network to one file, which appears under its name only when it is complete.

    Args:
        graph: The network, or its entry points by name.
        path: The file, replaced if it exists.

    Raises:
        ArtifactError: As `to_bytes`.
        OSError: The file cannot be written.
    """
    write_atomically(Path(path), to_bytes(graph))


def to_bytes(graph: Graph | Mapping[str, Graph]) -> bytes:
    """Return the content of a network's file; equal networks give equal bytes.

    The version is 1 for a network with one output, `logits`, no entry points and no later field;
    it is 2 for others, whose entry points share tensors of equal content.

    Args:
        graph: The network, or its entry points by name.

    Raises:
        ArtifactError: The names are so long that no file may have such a header, or there are no
            entry points or too many.
    """
    entries = {MAIN: graph} if isinstance(graph, Graph) else dict(graph)
    _check_entries(entries)
    if list(entries) == [MAIN] and _is_first_version(entries[MAIN]):
        return pack({"version": 1, **_description(entries[MAIN], 1)}, _named(entries[MAIN]))
    names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    stored: dict[str, NDArray[Any]] = {}
    described = {}
    for entry, part in entries.items():
        used = {}
        for name, tensor in _named(part).items():
            key = (tensor.dtype.str, tensor.shape, tensor.tobytes())
            used[name] = names.setdefault(key, f"{len(names)}.{name}")
            stored.setdefault(used[name], tensor)
        described[entry] = {**_description(part, 2), "tensors": used}
    return pack({"version": 2, "entries": described}, stored)


def _is_first_version(graph: Graph) -> bool:
    later = any(_used_later_fields(node) for node in graph.nodes)
    return list(graph.output_sizes) == [LOGITS] and not later


def _used_later_fields(node: Node) -> set[str]:
    """Return the names of the fields marked `Since` that differ from their defaults."""
    defaults = {item.name: item.default for item in dataclasses.fields(node)}
    return {name for name in later_fields(type(node)) if getattr(node, name) != defaults[name]}


def _check_entries(entries: Mapping[str, object]) -> None:
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise artifact_error("entries", f"be 1 to {MAX_ENTRIES}", len(entries))
    for name in entries:
        if not Text().holds(name):
            raise artifact_error("entries", Text().text, name)


def _named(graph: Graph) -> dict[str, NDArray[Any]]:
    """Return all tensors of a graph by name."""
    named = {_INPUT_TABLE: graph.input.table}
    for node in graph.nodes:
        named |= {f"{node.name}.{name}": tensor for name, tensor in tensors(node).items()}
    return named


def _description(graph: Graph, version: int) -> dict[str, Any]:
    """Return the graph without its tensors, as JSON values."""
    return {
        **({"exits": _plain_fields(graph.exits, stored_fields(Exits))} if graph.exits else {}),
        "name": graph.name,
        "classes": graph.classes,
        "input": _plain_fields(graph.input, stored_fields(Input)),
        "values": [_plain_fields(value, stored_fields(Value)) for value in graph.values],
        "nodes": [
            {"op": node.op, **_plain_fields(node, _stored_fields_of(node, version))}
            for node in graph.nodes
        ],
    }


def _node_fields(kind: type[Node], version: int, later: Collection[str]) -> dict[str, str]:
    """Return the names in files of a node's fields, of those marked `Since` the `later` ones.

    Version 1 has one output and no name for it.
    """
    left_out = later_fields(kind).keys() - set(later)
    if version == 1 and kind.ends:
        left_out.add("output")
    return {name: item for name, item in stored_fields(kind).items() if name not in left_out}


def _stored_fields_of(node: Node, version: int) -> dict[str, str]:
    return _node_fields(type(node), version, _used_later_fields(node))


def _plain_fields(thing: object, names: Mapping[str, str]) -> dict[str, Any]:
    return {stored: getattr(thing, name) for name, stored in names.items()}


def load(path: str | os.PathLike[str], entry: str | None = None) -> Graph:
    """Return the graph of a file of `save`; its tensors stay in the file, mapped into memory.

    Args:
        path: The file.
        entry: Name of the entry point; None for the only one.

    Raises:
        ArtifactError: No such file, or one that is damaged or not what it claims.
        ConfigError: There is no such entry point, or there are several and none is given.
    """
    return _chosen(load_entries(path), entry)


def load_entries(path: str | os.PathLike[str]) -> dict[str, Graph]:
    """Return all entry points of a file of `save` by name; `load` describes the errors."""
    try:
        return _graphs(_mapped(Path(path)))
    except InvalidFileError as error:
        raise ArtifactError(f"runtime.load: `path` must {error}, got {os.fspath(path)}") from error
    except ArtifactError as error:
        raise ArtifactError(
            f"runtime.load: `path` must hold a valid graph, got {os.fspath(path)} ({error})"
        ) from error


def from_bytes(content: bytes | bytearray | memoryview, entry: str | None = None) -> Graph:
    """Return the graph of a file's content; a damaged one is an ArtifactError, else as `load`."""
    return _chosen(entries_from_bytes(content), entry)


def entries_from_bytes(content: bytes | bytearray | memoryview) -> dict[str, Graph]:
    """Return all entry points of a file's content by name."""
    # A mutable buffer is copied: a graph is checked once.
    fixed = content if isinstance(content, bytes) else bytes(content)
    try:
        return _graphs(np.frombuffer(fixed, np.uint8))
    except InvalidFileError as error:
        raise ArtifactError(
            f"runtime.from_bytes: `content` must {error}, got {len(fixed)} bytes"
        ) from error


def _chosen(entries: Mapping[str, Graph], entry: str | None) -> Graph:
    if entry is None and len(entries) == 1:
        return next(iter(entries.values()))
    if entry is None or entry not in entries:
        raise ConfigError(choices_message("runtime.load", "entry", entry, entries))
    return entries[entry]


def from_file(file: BinaryIO, entry: str | None = None) -> Graph:
    """Return the graph in the rest of a file object; as `entries_from_file` and `load`."""
    return _chosen(entries_from_file(file), entry)


def entries_from_file(file: BinaryIO) -> dict[str, Graph]:
    """Return all entry points in the rest of a file object that is open for reading bytes.

    Raises:
        ArtifactError: It cannot be read, or gives no bytes, more than `MAX_STREAM_BYTES` of them,
            or no valid artifact.
    """
    parts: list[bytes] = []
    size = 0
    while size <= MAX_STREAM_BYTES:
        try:
            part = file.read(MAX_STREAM_BYTES + 1 - size)
        except Exception as error:  # any: the object need not be a file
            reason = quoted(str(error))
            raise ArtifactError(
                f"runtime.from_file: `file` must be readable, got {type(error).__name__} {reason}"
            ) from error
        if not isinstance(part, bytes):
            raise ArtifactError(
                f"runtime.from_file: `file` must be open in binary mode, got {quoted(file)}"
            )
        if not part:
            return entries_from_bytes(b"".join(parts))
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


def _graphs(content: NDArray[np.uint8]) -> dict[str, Graph]:
    description, tensors = unpack(content)
    version = description.pop("version", None)
    if type(version) is not int or version not in (1, 2):
        raise InvalidFileError(f"have version 1 or 2, not {reprlib.repr(version)}")
    if version == 1:
        return {MAIN: _built(description, tensors, 1)}
    entries = mapping(fields(description, "the network", ("entries",))["entries"], "entries")
    _check_entries(entries)
    graphs, used = {}, set()
    for entry, item in entries.items():
        what = f"entry {reprlib.repr(entry)}"
        names = mapping(mapping(item, what).pop("tensors", None), f"tensors of {what}")
        for name in names.values():
            if not isinstance(name, str) or name not in tensors:
                raise InvalidFileError(f"have the tensor {reprlib.repr(name)}")
            used.add(name)
        own = {name: tensors[stored] for name, stored in names.items()}
        graphs[entry] = _built(item, own, 2)
    for name in sorted(set(tensors) - used):
        raise InvalidFileError(f"have no tensors but the graphs', as {reprlib.repr(name)}")
    return graphs


def _built(description: object, tensors: dict[str, NDArray[Any]], version: int) -> Graph:
    names = ["name", "classes", "input", "values", "nodes"]
    if version >= 2 and "exits" in mapping(description, "the graph"):
        names.append("exits")
    graph = fields(description, "the graph", names)
    for name in ("values", "nodes"):
        if not isinstance(graph[name], tuple):
            raise InvalidFileError(f"have a list of {name}")
    given = _arguments(graph["input"], "input", stored_fields(Input))
    made = Graph(
        name=graph["name"],
        input=Input(**given, table=_taken(tensors, _INPUT_TABLE)),
        values=tuple(
            Value(**_arguments(value, f"values[{index}]", stored_fields(Value)))
            for index, value in enumerate(graph["values"])
        ),
        nodes=tuple(
            _node(node, f"nodes[{index}]", tensors, version)
            for index, node in enumerate(graph["nodes"])
        ),
        classes=graph["classes"],
        exits=_exits(graph["exits"]) if "exits" in graph else None,
    )
    for name in tensors:
        raise InvalidFileError(f"have no tensors but the graph's, as {reprlib.repr(name)}")
    return made


def _exits(description: object) -> Exits:
    return Exits(**_arguments(description, "exits", stored_fields(Exits)))


def _arguments(
    description: object, what: str, names: Mapping[str, str], *others: str
) -> dict[str, Any]:
    """Return the arguments of a dataclass but its tensors; `others` are further keys."""
    given = fields(description, what, (*others, *names.values()))
    return {name: given[stored] for name, stored in names.items()}


def _node(given: object, what: str, tensors: dict[str, NDArray[Any]], version: int) -> Node:
    description = mapping(given, what)
    op = description.get("op")
    if isinstance(op, str) and op in _REMOVED:
        raise ArtifactError(
            f"Graph: `{what}.op` must be a node of this version, got {op!r}, which earlier "
            f"versions wrote for {_REMOVED[op]}: quantise the network again"
        )
    if not isinstance(op, str) or op not in nodes.NODES:
        raise ArtifactError(choices_message("Graph", f"{what}.op", reprlib.repr(op), nodes.NODES))
    kind = nodes.get_node(op)
    stored = stored_fields(kind)
    since = later_fields(kind).items()
    later = [name for name, first in since if version >= first and stored[name] in description]
    arguments = _arguments(description, what, _node_fields(kind, version, later), "op")
    for name, check in field_checks(kind).items():
        if isinstance(check, Tensor):
            arguments[name] = _taken(tensors, f"{arguments['name']}.{name}")
    return kind(**arguments)


def _taken(tensors: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """The tensor of that name, which no other node may use."""
    if name not in tensors:
        raise InvalidFileError(f"have the tensor {reprlib.repr(name)}")
    return tensors.pop(name)
