"""Sources of a session: a graph, or a file of it in any form."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

from mulfree.errors import ConfigError, quoted
from mulfree.runtime import artifact
from mulfree.runtime.graph import Graph

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Graph


def load_graph(source: Source, entry: str | None) -> Graph:
    """Return the graph of a source.

    Raises:
        ArtifactError: The file is damaged.
        ConfigError: It is no source, or `entry` is not possible.
    """
    match source:
        case Graph() if entry is None:
            return source
        case Graph():
            raise ConfigError(
                f"Session: `entry` must be left out with a Graph, got {quoted(entry)}"
            )
        case str() | os.PathLike():
            return artifact.load(source, entry)
        case bytes() | bytearray() | memoryview():
            return artifact.from_bytes(source, entry)
        case io.TextIOBase():
            pass
        case _ if hasattr(source, "read"):
            return artifact.from_file(source, entry)
    raise _no_source(source)


def load_depths(source: Source) -> dict[str, Graph]:
    """Return the graphs of a file with an entry point for each depth, by name.

    Raises:
        ArtifactError: The file is damaged.
        ConfigError: It is no file.
    """
    match source:
        case Graph():
            raise ConfigError(
                "Session: `depth` must be left out with a Graph, which has one, got a Graph"
            )
        case str() | os.PathLike():
            return artifact.load_entries(source)
        case bytes() | bytearray() | memoryview():
            return artifact.entries_from_bytes(source)
        case io.TextIOBase():
            pass
        case _ if hasattr(source, "read"):
            return artifact.entries_from_file(source)
    raise _no_source(source)


def _no_source(source: object) -> ConfigError:
    return ConfigError(
        "Session: `source` must be a path, bytes, a file open in binary mode or a Graph, "
        f"got {quoted(source)}"
    )
