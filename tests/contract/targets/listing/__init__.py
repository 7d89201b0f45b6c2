"""A toy target: the nodes of a quantised network, one a line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from mulfree.errors import ConfigError
from mulfree.files import write_atomically
from mulfree.runtime import Graph

SUFFIX = ".txt"


def write(
    model: nn.Module | Graph,
    path: str | os.PathLike[str],
    *,
    input_size: Sequence[int] | None = None,
    pixels: bool | None = None,
) -> str:
    if not isinstance(model, Graph):
        raise ConfigError(f"listing: `model` must be quantised, got {type(model).__name__}")
    lines = [f"{node.name} {node.op}\n" for node in model.nodes]
    write_atomically(Path(path), "".join(lines).encode())
    return f"{len(lines)} nodes"
