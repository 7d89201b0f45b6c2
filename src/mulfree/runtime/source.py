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
    raise ConfigError(
        "Session: `source` must be a path, bytes, a file open in binary mode or a Graph, "
        f"got {quoted(source)}"
    )
