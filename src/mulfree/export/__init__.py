"""Networks in files that other programs run: the runtime's artifacts, and a folder for each target.

A new target is a folder with `SUFFIX` and `write` in its `__init__`, see `Target`, and a name in
`TARGETS` below.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from mulfree.errors import ConfigError, choices_message
from mulfree.export.onnx import to_onnx as to_onnx
from mulfree.runtime.artifact import save as save

if TYPE_CHECKING:
    from torch import nn

    from mulfree.runtime import Graph

TARGETS: tuple[str, ...] = ("onnx",)


class Target(Protocol):
    """A kind of file that other programs run.

    Attributes:
        SUFFIX: End of the names of its files.
    """

    SUFFIX: str

    def write(
        self,
        model: nn.Module | Graph,
        path: str | os.PathLike[str],
        *,
        input_size: Sequence[int] | None = None,
        pixels: bool | None = None,
    ) -> str:
        """Write a network to a file.

        Args:
            model: A float network, or a quantised graph.
            path: The file, replaced if it exists.
            input_size: C, H, W of an image, for a float network.
            pixels: Whether a quantised network reads bytes, or else normalised floats.

        Returns:
            Input and output of the file, in one line.

        Raises:
            ConfigError: The target has no such network, or no such option.
        """


def get_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        ConfigError: There is no such target.
    """
    if name not in TARGETS:
        raise ConfigError(choices_message("export", "--to", name, TARGETS))
    return cast(Target, importlib.import_module(f"{__name__}.{name}"))


def target_of(path: Path) -> Target:
    """The target that the name of a file ends with.

    Raises:
        ConfigError: No target has that suffix.
    """
    targets = {get_target(name).SUFFIX: name for name in TARGETS}
    if path.suffix.lower() not in targets:
        raise ConfigError(
            f"export: `--to` must be one of {', '.join(TARGETS)}, or `--output` must end in "
            f"{' or '.join(targets)}, got {path}"
        )
    return get_target(targets[path.suffix.lower()])
