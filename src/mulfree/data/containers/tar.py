"""Forward reader of tar files (ustar, GNU, pax), with limits on all sizes in headers.

The standard library's tarfile parses extended headers in quadratic time and keeps overlapping
records: a few hundred compressed bytes cost it gigabytes and hours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

BLOCK = 512

MAX_EXTENDED_BYTES = 2**20
"""Limit on the bytes of one member's extended headers: long names, attributes."""

_PIECE = 2**20

_NUMBER = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ([^=\n]{1,1024})=")
"""Start of a pax record: its whole length, and its key."""

_FILES = (b"\0", b"0", b"7")
# D: in incremental archives.
_FOLDERS = (b"5", b"D")
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
_EXTENDED = (b"x", b"X", b"g", b"L", b"K")


@dataclass(frozen=True, kw_only=True)
class Header:
    """Header of a member.

    Attributes:
        name: Path inside the archive; bytes outside UTF-8 as surrogates.
        size: Bytes of the content.
        kind: "other" for links, devices, pipes and sparse files.
    """

    name: str
    size: int
    kind: Literal["file", "folder", "other"]


class TarReader:
    """Sequential reader of the members of a tar file.

    Args:
        read: Reads up to that many bytes of the uncompressed file; fewer at its end only.

    Raises:
        ValueError: By all methods, if the file is damaged.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._pending = 0
        self._global: dict[bytes, bytes] = {}

    def next(self) -> Header | None:
        """Header of the next member, after any part of the previous one; None at the end."""
        own: dict[bytes, bytes] = {}
        extended = 0
        while True:
            self._skip()
            block = self._read(BLOCK)
            if len(block) < BLOCK:
                raise ValueError("no end mark")
            if not block.strip(b"\0"):
                return None
            _check_sum(block)
            kind, size = block[156:157], _number(block[124:136])
            if kind not in _EXTENDED:
                return self._header(block, kind, size, self._global | own)
            extended += size
            if extended > MAX_EXTENDED_BYTES:
                raise ValueError(
                    f"headers of a member must have at most {MAX_EXTENDED_BYTES} bytes, "
                    f"got {extended}"
                )
            self._pending = size + -size % BLOCK
            content = self.content(size)
            if kind == b"L":
                own[b"path"] = _text(content)
            elif kind == b"g":
                self._global |= _records(content)
            elif kind != b"K":
                own |= _records(content)

    def content(self, size: int) -> bytes:
        """Up to `size` next bytes of the current member."""
        data = self._read(size)
        self._pending -= len(data)
        return data

    def _header(self, block: bytes, kind: bytes, size: int, extended: dict[bytes, bytes]) -> Header:
        # Old sparse files have a type of their own.
        sparse = any(key.startswith(b"GNU.sparse.") for key in extended)
        if b"size" in extended:
            size = _decimal(extended[b"size"])
        self._pending = 0 if kind in _WITHOUT_CONTENT else size + -size % BLOCK
        path = extended.get(b"GNU.sparse.name") or extended.get(b"path")
        if path is None:
            path = _text(block[:100])
            # ustar has the prefix of a long name here, GNU's format has times.
            if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
                path = prefix + b"/" + path
        folder = kind in _FOLDERS or (kind in _FILES and path.endswith(b"/"))
        file = kind in _FILES and not sparse
        return Header(
            name=path.decode("utf-8", "surrogateescape"),
            size=size,
            kind="folder" if folder else "file" if file else "other",
        )

    def _skip(self) -> None:
        while self._pending:
            if not self.content(min(self._pending, _PIECE)):
                raise ValueError("ends within a member")


def _check_sum(block: bytes) -> None:
    """Verify the checksum of a header. Old programs added signed bytes."""
    summed = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(summed)
    signed = unsigned - 256 * sum(byte > 127 for byte in summed)
    if _number(block[148:156]) not in (unsigned, signed):
        raise ValueError("a header is damaged")


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if (match := _NUMBER.fullmatch(field)) is None:
        raise ValueError("a number in a header is malformed")
    return int(match[1] or b"0", 8)


def _decimal(text: bytes) -> int:
    if len(text) > 20 or not text.isdigit():
        raise ValueError("a number in an extended header is malformed")
    return int(text)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _records(content: bytes) -> dict[bytes, bytes]:
    """Relevant records of a pax header: path, size, sparse files."""
    kept = {}
    content = content.rstrip(b"\0")
    start = 0
    while start < len(content):
        match = _RECORD.match(content, start)
        end = start + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(content) or content[end - 1] != 10:
            raise ValueError("an extended header is damaged")
        if match[2] in (b"path", b"size") or match[2].startswith(b"GNU.sparse."):
            kept[match[2]] = content[match.end() : end - 1]
        start = end
    return kept
