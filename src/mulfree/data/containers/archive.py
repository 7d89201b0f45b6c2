"""Reads the files in a folder, .tar (.gz, .xz, .bz2) or .zip without ever unpacking it to disk.

Archives are not trusted. Names that point outside, links, devices, members that occur twice, are
encrypted or oversized, decompression bombs and truncated or damaged files end in one ArtifactError
that names the archive and, where there is one, the member. Hidden files and those that operating
systems leave behind are passed over, whatever they are.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mulfree.data.containers.tar import TarReader
from mulfree.errors import ArtifactError, quoted
from mulfree.files import open_regular, read_regular

MAX_MEMBER_BYTES = 64 * 2**20
"""A member may be this large: CIFAR's batches have 31 MB, photographs less."""

MAX_EXPANSION = 200
"""An archive may hold this many times its own size, or MIN_EXPANDED if that is more."""

MIN_EXPANDED = 2**30

_SYSTEM_NAMES = frozenset(
    (
        *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "system volume information", "lost+found", "@eadir"),
        *("#recycle", "@recycle", "#snapshot", "network trash folder", "temporary items"),
    )
)
"""Files and folders that macOS, Windows, Linux and network disks make, in lower case."""

_EDITORS_FILE = re.compile(r"~\$.*|.*~|#.*#", re.DOTALL)
"""Name of a lock file, a copy of an older state, or one of a state that is not saved yet."""

_HIDDEN = re.compile(r"\.(?!\.?(\\|$))")
"""Start of a hidden file's name, of which "..", also before a backslash, is none."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
"""Characters that no member's name may have; a terminal obeys most of them."""

_OUTSIDE = re.compile(r"/|[A-Za-z]:")
"""Start of a name that does not lie in the archive's own folder."""

_DAMAGE = (
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    struct.error,
    ValueError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
)
"""What the standard library raises on archives that are broken or of an unknown kind."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file in an archive.

    Attributes:
        name: Path inside the archive.
        data: Content.
        progress: Share of the archive read so far, 0 to 1.
    """

    name: str
    data: bytes
    progress: float


Read = Callable[[int], bytes]
"""A binary file's `read`."""

Filter = Callable[[str], bool]
"""Selects members by name."""


def iter_files(path: Path, filter: Filter = lambda name: True) -> Iterator[Member]:
    """The files of a folder or archive: a folder's by name, an archive's in its own order.

    Names are without "." parts; those of hidden and system files do not occur.

    Args:
        path: Folder or archive; the kind is told by content, not by name.
        filter: Selects the members to read.

    Raises:
        ArtifactError: If the archive is not one, damaged or hostile.
    """
    if path.is_dir():
        yield from _folder_members(path, filter)
        return
    if not path.is_file():
        raise _no_archive(path)
    with open_regular(path) as file:
        start = file.read(512)
        file.seek(0)
        try:
            if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                yield from _zip_members(path, file, filter)
            elif (read := _tar_reader(file, start)) is not None:
                yield from _tar_members(path, file, read, filter)
            else:
                raise _no_archive(path)
        except ArtifactError:
            raise
        except (*_DAMAGE, OSError) as error:
            # Decompressors raise OSError without a number, a zip may ask for a negative position;
            # what else has a number is the disk's fault and not the archive's.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ArtifactError(f"data.load: {path} is damaged or incomplete: {reason}") from error


def file_bytes(path: Path) -> int:
    """Bytes of an archive, or of all files in a folder."""
    if path.is_dir():
        return sum(state.st_size for _, state in folder_files(path))
    return path.stat().st_size


def _no_archive(path: Path) -> ArtifactError:
    return ArtifactError(
        f"data.load: `root` must be a folder, .tar, .tar.gz, .tar.xz, .tar.bz2 or .zip, got {path}"
        ", which is none of them"
    )


def _refuse(path: Path, name: str, reason: str) -> ArtifactError:
    return ArtifactError(f"data.load: {path}: member {quoted(name)} {reason}")


def _passed_over(part: str) -> bool:
    """Whether a file or folder is hidden or belongs to an operating system, not to the data."""
    return _HIDDEN.match(part) is not None or part.lower() in _SYSTEM_NAMES


def _chosen(path: Path, name: str, filter: Filter) -> str | None:
    """Name of a member without "." parts, None if it is passed over."""
    parts = PurePosixPath(name).parts
    if any(map(_passed_over, parts)) or not parts or _EDITORS_FILE.fullmatch(parts[-1]):
        return None
    if _CONTROL.search(name):
        raise _refuse(path, name, "must have a printable name with / between its parts")
    if ".." in parts or _OUTSIDE.match(name):
        raise _refuse(path, name, "must not point outside the archive")
    plain = "/".join(parts)
    return plain if filter(plain) else None


class _Once:
    """Refuses a name that was there before: an archive would hold one image twice, or two."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Numbers rather than names, of which a large set has a million.
        self._seen: set[int] = set()

    def check(self, name: str) -> None:
        if hash(name) in self._seen:
            raise _refuse(self._path, name, "must not occur twice")
        self._seen.add(hash(name))


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise _refuse(path, name, f"must have at most {MAX_MEMBER_BYTES} bytes, got {size}")


def _check_expansion(path: Path, expanded: int, limit: int) -> None:
    if expanded > limit:
        raise ArtifactError(
            f"data.load: {path} must hold at most {limit} bytes unpacked (a guard against "
            f"decompression bombs), got {expanded} or more"
        )


def _expansion_limit(path: Path) -> int:
    return max(MIN_EXPANDED, MAX_EXPANSION * path.stat().st_size)


def _folder_members(path: Path, filter: Filter) -> Iterator[Member]:
    files = [(name, state) for name, state in folder_files(path) if _chosen(path, name, filter)]
    for number, (name, state) in enumerate(files, start=1):
        if not stat.S_ISREG(state.st_mode):
            raise _refuse(path, name, "must be a plain file, not a pipe or device")
        _check_size(path, name, state.st_size)
        data = read_regular(path / name, MAX_MEMBER_BYTES)
        yield Member(name=name, data=data, progress=number / len(files))


def folder_files(path: Path) -> list[tuple[str, os.stat_result]]:
    """Names below a folder and what they stand for, by name.

    Hidden files, those of systems and editors, and links to nothing are passed over. Links to
    files count, links to folders are followed: a user's own folder is trusted as far as that. Links
    cannot make this run in circles because folders are visited once each.

    Raises:
        OSError: If a folder cannot be read.
    """
    found: list[tuple[str, os.stat_result]] = []
    seen: set[tuple[int, int]] = set()
    pending = [("", os.stat(path))]
    while pending:
        prefix, state = pending.pop()
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        for name in sorted(os.listdir(path / prefix)):
            inner = _state(path / prefix / name) if not _passed_over(name) else None
            if inner is not None:
                if stat.S_ISDIR(inner.st_mode):
                    pending.append((f"{prefix}{name}/", inner))
                elif not _EDITORS_FILE.fullmatch(name):
                    found.append((f"{prefix}{name}", inner))
    return sorted(found, key=lambda entry: entry[0])


def _state(path: Path) -> os.stat_result | None:
    """State of a file or folder, None for a link to nothing."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _zip_members(path: Path, file: BinaryIO, filter: Filter) -> Iterator[Member]:
    once = _Once(path)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_expansion(path, sum(entry.file_size for entry in entries), _expansion_limit(path))
        chosen = []
        for entry in entries:
            # Not is_dir(), which fails on a name without characters.
            if entry.filename.endswith("/"):
                continue
            if (name := _chosen(path, entry.filename, filter)) is not None:
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG):
                    raise _refuse(path, name, "must be a plain file, not a link or device")
                once.check(name)
                chosen.append((name, entry))
        for number, (name, entry) in enumerate(chosen, start=1):
            _check_size(path, name, entry.file_size)
            # zipfile stops at the declared size and compares the checksum there.
            data = archive.read(entry)
            yield Member(name=name, data=data, progress=number / len(chosen))


def _tar_reader(file: BinaryIO, start: bytes) -> Read | None:
    """Reads the uncompressed bytes of the tar file that starts with `start`; None: it is none."""
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file).read
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file).read
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file).read
    return file.read if start[257:262] == b"ustar" else None


def _tar_members(path: Path, file: BinaryIO, read: Read, filter: Filter) -> Iterator[Member]:
    limit = _expansion_limit(path)
    expanded = 0

    def bounded(size: int) -> bytes:
        nonlocal expanded
        data = read(size)
        expanded += len(data)
        _check_expansion(path, expanded, limit)
        return data

    archive, once = TarReader(bounded), _Once(path)
    size, progress, number = path.stat().st_size, 0.0, 0
    while (entry := archive.next()) is not None:
        if entry.kind == "folder" or (name := _chosen(path, entry.name, filter)) is None:
            continue
        if entry.kind != "file":
            raise _refuse(path, name, "must be a plain file, not a link or device")
        once.check(name)
        _check_size(path, name, entry.size)
        data = archive.content(entry.size)
        if len(data) < entry.size:
            raise _refuse(path, name, "is cut off: the archive is incomplete")
        if number % 64 == 0:  # each tell() waits for the threads that decode
            progress = min(1.0, file.tell() / size)
        number += 1
        yield Member(name=name, data=data, progress=progress)
