"""A folder of arrays that are computed once, then memory-mapped by every later run.

An entry appears complete or not at all: it is built in a folder of its own and renamed. Processes
that build the same entry at once do no harm; the first rename wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mulfree.data.archive import folder_files

_ABANDONED_SECONDS = 24 * 3600.0

Entry = TypeVar("Entry")


def cache_folder(chosen: str | None) -> Path:
    """`chosen`, MULFREE_CACHE, or mulfree's folder in the user's cache, whichever is set first."""
    named = chosen or os.environ.get("MULFREE_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "mulfree"


def fingerprint(path: Path, **options: object) -> str:
    """A name for what `path` holds now, read with `options`; changes when either does.

    Made of sizes and modification times, for a folder of all files in it.
    """
    source = path.resolve()
    files = sorted(folder_files(source)) if source.is_dir() else [source]
    digest = hashlib.sha256(json.dumps([str(source), options], sort_keys=True).encode())
    for file in files:
        state = file.stat()
        digest.update(repr((str(file), state.st_size, state.st_mtime_ns)).encode())
    return f"{source.name.split('.')[0]}-{digest.hexdigest()[:16]}"


def cached(
    folder: Path, key: str, *, build: Callable[[Path], None], load: Callable[[Path], Entry]
) -> Entry:
    """Load the entry `key`, building it first if it is not there or damaged.

    Args:
        folder: The cache; made if need be.
        key: Name of the entry.
        build: Fills the empty folder it is given.
        load: Reads a filled folder; an error means that it is damaged.

    Raises:
        OSError: If the cache cannot be written; one line that says so.
    """
    entry = folder / key
    if entry.is_dir():
        with contextlib.suppress(Exception):  # a damaged file makes readers raise nearly anything
            return load(entry)
        shutil.rmtree(entry, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder, key)
        partial = Path(tempfile.mkdtemp(prefix=f"{key}.partial-", dir=folder))
    try:
        build(partial)
        with writing(folder):
            try:
                partial.rename(entry)
            except OSError:
                if not entry.is_dir():  # else another process was first
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load(entry)


def _remove_abandoned(folder: Path, key: str) -> None:
    """Remove what a killed process left of the same entry long ago."""
    for partial in folder.glob(f"{key}.partial-*"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write into one line that names the cache and the way out."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"data.load: cannot write the cache {folder}: {error.strerror or error}; name another "
            "folder with `cache` or MULFREE_CACHE"
        ) from error


class ArrayWriter:
    """Writes a uint8 .npy file piece by piece, without knowing beforehand how many there will be.

    Plain writes rather than a memory map: a full disk is then an error and not a signal.

    Args:
        path: The file.
        row_shape: Shape of a row; the array is `[N, *row_shape]`.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...]) -> None:
        self._path = path
        self._row_shape = row_shape
        self.count = 0
        with writing(path.parent):
            self._file = path.open("wb")
            self._write_header()

    def append(self, rows: NDArray[np.uint8]) -> None:
        """Add rows `[n, *row_shape]`."""
        with writing(self._path.parent):
            self._file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def _write_header(self) -> None:
        # numpy leaves room for the first dimension to grow, so a header never changes its length.
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                with writing(self._path.parent):
                    self._file.seek(0)
                    self._write_header()
                    self._file.flush()
        finally:
            with contextlib.suppress(OSError):
                self._file.close()


def map_array(path: Path) -> Tensor:
    """The array in a .npy file as a memory-mapped tensor. Writing to it changes no file."""
    # Copy-on-write, because torch warns about memory that cannot be written.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
