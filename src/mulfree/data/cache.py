"""Cache of arrays on disk, computed once and memory-mapped by every later run.

Entries appear atomically: each is built in a temporary folder and renamed. Processes may build the
same entry at once; the first rename wins.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mulfree.data.containers.folder import folder_files
from mulfree.data.row_digests import row_digests
from mulfree.errors import MAX_MESSAGE, ArtifactError, printable
from mulfree.files import check_regular, read_regular

_ABANDONED_SECONDS = 24 * 3600.0
_NAME = 40
"""Characters of the source's name in the name of an entry, for which systems allow 255 bytes."""

_INDEX = "index.json"

Entry = TypeVar("Entry")


def cache_folder(chosen: str | None) -> Path:
    """`chosen`, MULFREE_CACHE, or mulfree's folder in the user's cache, whichever is set first."""
    named = chosen or os.environ.get("MULFREE_CACHE")
    if named:
        return Path(os.path.expanduser(named))
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or os.path.expanduser("~/.cache")) / "mulfree"


def fingerprint(path: Path, **options: object) -> str:
    """Name of a cache entry that depends on the content of `path` and on `options`.

    Content is fingerprinted by sizes and modification times, in a folder of all files except hidden
    and system files.
    """
    source = path.resolve()
    files = folder_files(source) if source.is_dir() else [("", source.stat())]
    digest = hashlib.sha256(json.dumps([str(source), options], sort_keys=True).encode())
    for name, state in files:
        digest.update(ascii((name, state.st_size, state.st_mtime_ns)).encode())
    return f"{source.name.split('.')[0][:_NAME]}-{digest.hexdigest()[:16]}"


def cached(
    folder: Path, key: str, *, build: Callable[[Path], None], load: Callable[[Path], Entry]
) -> Entry:
    """Load the entry `key`; build it first if it is missing or damaged.

    Args:
        folder: The cache; created if missing.
        key: Name of the entry.
        build: Fills an empty folder.
        load: Reads a filled folder; any error counts as damage.

    Raises:
        ArtifactError: A damaged entry cannot be removed.
        OSError: The cache cannot be written.
    """
    entry = folder / key
    if entry.is_dir():
        with contextlib.suppress(Exception):  # readers raise nearly anything on damaged files
            return load(entry)
    _remove(entry)
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
                if not entry.is_dir():  # otherwise another process was first
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    try:
        return load(entry)
    except (ArtifactError, OSError, MemoryError):
        raise
    except Exception as error:  # built by another process, or not removable
        raise damaged(entry) from error


def _remove(entry: Path) -> None:
    """Remove an entry, or a link or file in its place, as far as possible."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            entry.unlink()


def _remove_abandoned(folder: Path, key: str) -> None:
    """Remove partial builds of the entry that killed processes left a day ago or earlier."""
    for partial in folder.glob(f"{key}.partial-*"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failed write into one line that names the cache and the remedy."""
    try:
        yield
    except OSError as error:
        message = (
            f"data.load: cannot write the cache {folder}: {error.strerror or error}; name another "
            "folder with `cache` or MULFREE_CACHE"
        )
        raise OSError(printable(message, MAX_MESSAGE)) from error


def check_space(folder: Path, needed: int, reserve: int) -> None:
    """Fail before the disk is full.

    Raises:
        OSError: Another `needed` bytes in `folder` would leave less than `reserve` free.
    """
    with writing(folder):
        free = shutil.disk_usage(folder).free
        if needed > free - reserve:
            raise OSError(
                errno.ENOSPC,
                f"{needed} more bytes are needed and {max(0, free - reserve)} available beside the "
                f"{reserve} that stay free (`min_free_bytes`)",
            )


def seal(folder: Path, content: object, files: Iterable[str]) -> None:
    """Write the index of an entry: `content`, its digest, and digests of small files.

    Args:
        folder: The entry.
        content: JSON values.
        files: Names of files in the entry.
    """
    with writing(folder.parent):
        digests = {name: _sha256((folder / name).read_bytes()) for name in files}
        index = {"content": content, "files": digests}
        index["sha256"] = _sha256(_canonical(index))
        (folder / _INDEX).write_text(json.dumps(index))


def unseal(folder: Path) -> tuple[Any, dict[str, bytes]]:
    """Content and files of a sealed entry.

    Raises:
        ArtifactError: A digest differs.
        OSError: A file is missing or not a regular file.
    """
    index = json.loads(read_regular(folder / _INDEX))
    whole = index.pop("sha256") == _sha256(_canonical(index))
    files = {name: read_regular(folder / name) for name in index["files"]}
    if not whole or any(_sha256(data) != index["files"][name] for name, data in files.items()):
        raise damaged(folder)
    return index["content"], files


def damaged(entry: Path) -> ArtifactError:
    """Remove a damaged entry, which makes the next start rebuild it, and return the error."""
    _remove(entry)
    state = "must be removed" if entry.exists() else "has been removed"
    return ArtifactError(
        f"data.load: the cache entry {entry} is damaged and {state}; start again to build it anew"
    )


def _canonical(index: object) -> bytes:
    return json.dumps(index, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class ArrayWriter:
    """Writer of a uint8 .npy file whose number of rows is not known in advance.

    Plain writes rather than a memory map: a full disk then raises an error instead of a signal.

    Args:
        path: The file.
        row_shape: Shape of a row; the array is `[N, *row_shape]`.
        reserve: Bytes of the disk to leave free.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], reserve: int = 0) -> None:
        self._path = path
        self._row_shape = row_shape
        self._reserve = reserve
        self._digests: list[NDArray[np.uint8]] = []
        self.count = 0
        with writing(path.parent):
            self._file = path.open("wb")
            self._write_header()

    def append(self, rows: NDArray[np.uint8]) -> None:
        """Add rows `[n, *row_shape]`."""
        rows = np.ascontiguousarray(rows)
        check_space(self._path.parent, rows.nbytes, self._reserve)
        with writing(self._path.parent):
            self._file.write(rows.data)
        self._digests.append(row_digests(rows))
        self.count += len(rows)

    @property
    def digests(self) -> NDArray[np.uint8]:
        """`row_digests` of all rows so far."""
        return np.concatenate(self._digests)

    def _write_header(self) -> None:
        # The length of the header is constant: numpy reserves room for the first dimension.
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
    """Memory-mapped tensor of a .npy file, copy-on-write.

    Raises:
        OSError: It is not a regular file.
        ValueError: It is not a .npy file.
    """
    check_regular(path)
    # Copy-on-write: torch warns about read-only memory.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
