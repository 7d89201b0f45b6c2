"""Location of the files of a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mulfree.errors import ArtifactError, DataError, quoted


def locate(
    dataset: str,
    root: str | None,
    *,
    names: Sequence[str],
    markers: Sequence[str],
    get: str,
    installed: Sequence[Path] = (),
) -> Path:
    """Path of the file or folder of a data set.

    Searched in `root` or, without one, in MULFREE_DATA and then in the places where systems install
    it. Either may be the file or folder itself, or a folder that holds it.

    Args:
        dataset: Name of the data set, for the error message.
        root: Path given by the user.
        names: Usual names of the file or folder.
        markers: Names that identify the data set's own folder; one suffices.
        get: Instructions for getting the data set, for the error message.
        installed: Places used if no root is given and MULFREE_DATA does not have it.

    Raises:
        DataError: It is not there; the message lists names and places.
        ArtifactError: The root is neither a file nor a folder.
    """
    chosen = root or os.environ.get("MULFREE_DATA")
    if chosen:
        given = Path(os.path.expanduser(chosen))
        if given.is_file():
            return given
        if given.exists() and not given.is_dir():
            raise ArtifactError(
                f"data.load: `root` must be a file or folder, got {quoted(chosen)}, a pipe or "
                "device"
            )
        for name in names:
            if (given / name).exists():
                return given / name
        if any((given / marker).exists() for marker in markers):
            return given
    if not root:
        for place in installed:
            if place.exists():
                return place
    missing = (
        "" if not chosen or Path(os.path.expanduser(chosen)).exists() else " (which does not exist)"
    )
    searched = [f"{chosen}{missing}"] if chosen else ["`root` or MULFREE_DATA (neither is set)"]
    if not root:
        searched += map(str, installed)
    expected = ", ".join([*names, f"a folder with {markers[0]}"])
    raise DataError(
        f"data.load: no {dataset} found in {' or '.join(searched)}: looked for {expected}; "
        f"{get}, then name its folder with `root` or MULFREE_DATA"
    )
