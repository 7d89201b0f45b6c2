"""Where the files of a data set are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mulfree.data.config import DataConfig
from mulfree.errors import ArtifactError, DataError, quoted


def find(
    config: DataConfig,
    *,
    names: Sequence[str],
    marks: Sequence[str],
    get: str,
    installed: Sequence[Path] = (),
) -> Path:
    """The file or folder of a data set.

    Looked for in `config.root` or, without one, in MULFREE_DATA and then where systems install
    it. Either may be the file or folder itself, or a folder that holds it.

    Args:
        config: Names the data set and perhaps a root.
        names: Usual names of the file or folder.
        marks: Names of which one lies in the data set's own folder.
        get: How to get the data set, for the error message.
        installed: Places used when no root is given and MULFREE_DATA does not have it.

    Raises:
        DataError: If it is not there; says what was looked for and where.
        ArtifactError: If the root is neither a file nor a folder.
    """
    root = config.root or os.environ.get("MULFREE_DATA")
    if root:
        given = Path(os.path.expanduser(root))
        if given.is_file():
            return given
        if given.exists() and not given.is_dir():
            raise ArtifactError(
                f"data.load: `root` must be a file or folder, got {quoted(root)}, a pipe or device"
            )
        for name in names:
            if (given / name).exists():
                return given / name
        if any((given / mark).exists() for mark in marks):
            return given
    if not config.root:
        for place in installed:
            if place.exists():
                return place
    missing = (
        "" if not root or Path(os.path.expanduser(root)).exists() else " (which does not exist)"
    )
    looked = [f"{root}{missing}"] if root else ["`root` or MULFREE_DATA (neither is set)"]
    if not config.root:
        looked += map(str, installed)
    wanted = ", ".join([*names, f"a folder with {marks[0]}"])
    raise DataError(
        f"data.load: no {config.name} found in {' or '.join(looked)}: looked for {wanted}; "
        f"{get}, then name its folder with `root` or MULFREE_DATA"
    )
