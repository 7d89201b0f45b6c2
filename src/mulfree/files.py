"""Files that are either complete or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the file at `path` by one with `content`, in one step.

    A process killed at any moment leaves the old or the new file, never a part of one.

    Raises:
        OSError: The content cannot be written, for example because the disk is full; what was
            there before is untouched.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            # Writing to an open file says neither which one it was, nor its final name.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_parts(directory: Path) -> None:
    """Removes what a process killed while writing may have left in `directory`."""
    for part in directory.glob(".*.part"):
        with contextlib.suppress(OSError):
            part.unlink()
