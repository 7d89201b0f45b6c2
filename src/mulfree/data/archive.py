"""Reads the files in a folder, .tar (.gz, .xz, .bz2) or .zip without ever unpacking it to disk.

Archives are not trusted. Names that point outside, links, devices, encrypted or oversized members,
decompression bombs and truncated or damaged files end in one ArtifactError that names the archive
and, where there is one, the member.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mulfree.errors import ArtifactError

MAX_MEMBER_BYTES = 64 * 2**20
"""A member may be this large: CIFAR's batches have 31 MB, photographs less."""

MAX_EXPANSION = 200
"""An archive may hold this many times its own size, or MIN_EXPANDED if that is more."""

MIN_EXPANDED = 2**30

_DAMAGE = (
    tarfile.TarError,
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
        done: Share of the archive read so far, 0 to 1.
    """

    name: str
    data: bytes
    done: float


Read = Callable[[int], bytes]
"""A binary file's `read`."""

Wanted = Callable[[str], bool]
"""Whether the member of that name is to be read."""


def members(path: Path, wanted: Wanted = lambda name: True) -> Iterator[Member]:
    """The files of a folder or archive: a folder's by name, an archive's in its own order.

    Args:
        path: Folder or archive; the kind is told by content, not by name.
        wanted: Members to read; the others are passed over.

    Raises:
        ArtifactError: If the archive is not one, damaged or hostile.
    """
    if path.is_dir():
        yield from _folder_members(path, wanted)
        return
    with path.open("rb") as file:
        start = file.read(512)
        file.seek(0)
        try:
            if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                yield from _zip_members(path, file, wanted)
            elif (read := _tar_reader(file, start)) is not None:
                yield from _tar_members(path, file, read, wanted)
            else:
                raise ArtifactError(
                    f"data.load: `root` must be a folder, .tar, .tar.gz, .tar.xz, .tar.bz2 or .zip"
                    f", got {path}, which is none of them"
                )
        except ArtifactError:
            raise
        except (*_DAMAGE, OSError) as error:
            # Decompressors raise OSError without a number, a zip may ask for a negative position;
            # what else has a number is the disk's fault and not the archive's.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ArtifactError(f"data.load: {path} is damaged or incomplete: {reason}") from error


def shown(name: str) -> str:
    """A member's name for an error message: quoted, escaped and of bearable length."""
    text = repr(name)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _refuse(path: Path, name: str, reason: str) -> ArtifactError:
    return ArtifactError(f"data.load: {path}: member {shown(name)} {reason}")


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if not name.isprintable() or "\\" in name:
        raise _refuse(path, name, "must have a printable name with / between its parts")
    if not parts or name.startswith("/") or ".." in parts or ":" in parts[0]:
        raise _refuse(path, name, "must not point outside the archive")


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


def _folder_members(path: Path, wanted: Wanted) -> Iterator[Member]:
    named = sorted((file.relative_to(path).as_posix(), file) for file in folder_files(path))
    files = [(name, file) for name, file in named if wanted(name)]
    for number, (name, file) in enumerate(files, start=1):
        _check_name(path, name)
        _check_size(path, name, file.stat().st_size)
        yield Member(name=name, data=file.read_bytes(), done=number / len(files))


def folder_files(path: Path) -> Iterator[Path]:
    """All files below a folder. Links to files count, links to folders are followed one deep each.

    A user's own folder is trusted as far as that; links cannot make this run in circles because
    folders are visited once each.
    """
    seen: set[tuple[int, int]] = set()
    for folder, inner, files in os.walk(path, followlinks=True):
        identity = os.stat(folder)
        if (identity.st_dev, identity.st_ino) in seen:
            inner.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        yield from (Path(folder, file) for file in files)


def _zip_members(path: Path, file: BinaryIO, wanted: Wanted) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        for entry in entries:
            _check_name(path, entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _refuse(path, entry.filename, "must be a plain file, not a link or device")
        _check_expansion(path, sum(entry.file_size for entry in entries), _expansion_limit(path))
        chosen = [entry for entry in entries if wanted(entry.filename)]
        for number, entry in enumerate(chosen, start=1):
            _check_size(path, entry.filename, entry.file_size)
            # zipfile stops at the declared size and compares the checksum there.
            data = archive.read(entry)
            yield Member(name=entry.filename, data=data, done=number / len(chosen))


def _tar_reader(file: BinaryIO, start: bytes) -> Read | None:
    """Reads the uncompressed bytes of the tar file that starts with `start`; None: it is none."""
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file).read
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file).read
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file).read
    return file.read if start[257:262] == b"ustar" else None


class _Forward(io.RawIOBase):
    """What tarfile reads from: only forward, in bounded pieces, up to a limit.

    tarfile reads a header's own extension (long names, pax) in one piece of the size the header
    declares, which may be anything: hence the bound here.
    """

    def __init__(self, path: Path, read: Read) -> None:
        self._path = path
        self._read = read
        self._position = 0
        self._limit = _expansion_limit(path)
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_MEMBER_BYTES:
            raise ArtifactError(
                f"data.load: {self._path} must not have headers of more than {MAX_MEMBER_BYTES} "
                f"bytes, got {size}"
            )
        return self._take(size)

    def _take(self, size: int) -> bytes:
        self.last = self._read(size)
        self._position += len(self.last)
        _check_expansion(self._path, self._position, self._limit)
        return self.last

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset < self._position:
            raise tarfile.ReadError("sizes in the archive contradict each other")
        while self._position < offset:
            if not self._take(min(offset - self._position, 2**20)):
                raise EOFError("ends within a member")
        return self._position


def _tar_members(path: Path, file: BinaryIO, read: Read, wanted: Wanted) -> Iterator[Member]:
    forward = _Forward(path, read)
    size, done, number = path.stat().st_size, 0.0, 0
    with tarfile.open(fileobj=forward, mode="r:") as archive:
        while (entry := archive.next()) is not None:
            # tarfile keeps all members it has seen; a million of them are a gigabyte.
            archive.members.clear()  # type: ignore[attr-defined]
            _check_name(path, entry.name)
            if entry.isdir():
                continue
            if not entry.isreg() or entry.issparse():
                raise _refuse(path, entry.name, "must be a plain file, not a link or device")
            if not wanted(entry.name):
                continue
            _check_size(path, entry.name, entry.size)
            forward.seek(entry.offset_data)
            data = forward.read(entry.size)
            if len(data) < entry.size:
                raise _refuse(path, entry.name, "is cut off: the archive is incomplete")
            if number % 64 == 0:  # each tell() waits for the threads that decode
                done = min(1.0, file.tell() / size)
            number += 1
            yield Member(name=entry.name, data=data, done=done)
    # tarfile takes a cut or garbled header for the end; the true end is a block of zeros.
    if forward.last.strip(b"\0") or len(forward.last) < tarfile.BLOCKSIZE:
        raise ArtifactError(f"data.load: {path} is damaged or incomplete: no end mark")
