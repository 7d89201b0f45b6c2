"""Files of a folder, .tar (.gz, .xz, .bz2) or .zip, read without unpacking to disk.

Archives are not trusted. Names outside the archive, links, devices, duplicate, encrypted or
oversized members, decompression bombs and truncated or damaged files raise one ArtifactError with
the names of the archive and of the member. Hidden files and files of operating systems are skipped.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mulfree.data.containers.folder import folder_files, is_editor_file, is_hidden
from mulfree.data.containers.tar import TarReader
from mulfree.errors import ArtifactError, quoted
from mulfree.files import open_regular, read_regular

MAX_MEMBER_BYTES = 64 * 2**20
"""Limit on the bytes of a member: CIFAR's batches have 31 MB, photographs less."""

MAX_EXPANSION = 200
"""Limit on the unpacked bytes as a multiple of the archive, if above MIN_EXPANDED."""

MIN_EXPANDED = 2**30

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
"""Characters refused in names of members: most of them control a terminal."""

_OUTSIDE = re.compile(r"/|[A-Za-z]:")
"""Start of an absolute name."""

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
"""Exceptions of the standard library for broken or unknown archives."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of a folder or archive.

    Attributes:
        name: Path inside the archive.
        data: Content.
        progress: Share of the archive read so far, 0 to 1.
    """

    name: str
    data: bytes
    progress: float


Read = Callable[[int], bytes]
"""The `read` method of a binary file."""

Filter = Callable[[str], bool]
"""Selects members by name."""


def iter_files(path: Path, filter: Filter = lambda name: True) -> Iterator[Member]:
    """Files of a folder, sorted by name, or of an archive, in its own order.

    Names have no "." parts. Hidden and system files are skipped.

    Args:
        path: Folder or archive; the kind is detected by content, not by name.
        filter: Selects the members to read.

    Raises:
        ArtifactError: `path` is neither, or the archive is damaged or hostile.
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
            # Decompressors raise OSError without errno, a zip may cause a negative seek; any other
            # errno is an error of the disk, not of the archive.
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
        ", a file of another kind"
    )


def _member_error(path: Path, name: str, reason: str) -> ArtifactError:
    return ArtifactError(f"data.load: {path}: member {quoted(name)} {reason}")


def _selected(path: Path, name: str, filter: Filter) -> str | None:
    """Name of a member without "." parts, None if it is skipped."""
    parts = PurePosixPath(name).parts
    if any(map(is_hidden, parts)) or not parts or is_editor_file(parts[-1]):
        return None
    if _CONTROL.search(name):
        raise _member_error(path, name, "must have a printable name with / between its parts")
    if ".." in parts or _OUTSIDE.match(name):
        raise _member_error(path, name, "must not point outside the archive")
    plain = "/".join(parts)
    return plain if filter(plain) else None


def _check_unique(path: Path, name: str, seen: set[int]) -> None:
    """Refuse duplicate names, which would make a member ambiguous."""
    # Hashes rather than names: a large set has a million.
    if hash(name) in seen:
        raise _member_error(path, name, "must not occur twice")
    seen.add(hash(name))


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise _member_error(path, name, f"must have at most {MAX_MEMBER_BYTES} bytes, got {size}")


def _check_expansion(path: Path, expanded: int, limit: int) -> None:
    if expanded > limit:
        raise ArtifactError(
            f"data.load: {path} must hold at most {limit} bytes unpacked (a guard against "
            f"decompression bombs), got {expanded} or more"
        )


def _expansion_limit(path: Path) -> int:
    return max(MIN_EXPANDED, MAX_EXPANSION * path.stat().st_size)


def _folder_members(path: Path, filter: Filter) -> Iterator[Member]:
    files = [(name, state) for name, state in folder_files(path) if _selected(path, name, filter)]
    for number, (name, state) in enumerate(files, start=1):
        if not stat.S_ISREG(state.st_mode):
            raise _member_error(path, name, "must be a plain file, not a pipe or device")
        _check_size(path, name, state.st_size)
        data = read_regular(path / name, MAX_MEMBER_BYTES)
        yield Member(name=name, data=data, progress=number / len(files))


def _zip_members(path: Path, file: BinaryIO, filter: Filter) -> Iterator[Member]:
    seen: set[int] = set()
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_expansion(path, sum(entry.file_size for entry in entries), _expansion_limit(path))
        chosen = []
        for entry in entries:
            # Not is_dir(), which fails on an empty name.
            if entry.filename.endswith("/"):
                continue
            if (name := _selected(path, entry.filename, filter)) is not None:
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG):
                    raise _member_error(path, name, "must be a plain file, not a link or device")
                _check_unique(path, name, seen)
                chosen.append((name, entry))
        for number, (name, entry) in enumerate(chosen, start=1):
            _check_size(path, name, entry.file_size)
            # zipfile stops at the declared size and verifies the checksum.
            data = archive.read(entry)
            yield Member(name=name, data=data, progress=number / len(chosen))


def _tar_reader(file: BinaryIO, start: bytes) -> Read | None:
    """Reader of the uncompressed bytes of a tar file that starts with `start`; None otherwise."""
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

    archive, seen = TarReader(bounded), set[int]()
    size, progress, number = path.stat().st_size, 0.0, 0
    while (entry := archive.next()) is not None:
        if entry.kind == "folder" or (name := _selected(path, entry.name, filter)) is None:
            continue
        if entry.kind != "file":
            raise _member_error(path, name, "must be a plain file, not a link or device")
        _check_unique(path, name, seen)
        _check_size(path, name, entry.size)
        data = archive.content(entry.size)
        if len(data) < entry.size:
            raise _member_error(path, name, "is cut off: the archive is incomplete")
        if number % 64 == 0:  # each query waits for the decoding threads
            progress = min(1.0, file.tell() / size)
        number += 1
        yield Member(name=name, data=data, progress=progress)
