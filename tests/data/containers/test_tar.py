from __future__ import annotations

import io
import tarfile

import pytest

from mulfree.data.containers import tar
from mulfree.data.containers.tar import TarReader

LONG = "train/" + "d" * 90 + "/" + "f" * 60
FILES = {"a": b"1" * 512, LONG: b"22", "x" * 300: b"", "caf\u00e9/\u732b.png": b"4" * 1000}


def _header(kind: bytes, size: int, name: str = "a") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.USTAR_FORMAT)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % tar.BLOCK)


def _pax(*records: tuple[str, str]) -> bytes:
    content = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode()
        length = next(n for n in range(9999) if n == len(str(n)) + len(rest))
        content += str(length).encode() + rest
    return _extended(b"x", content)


def _extended(kind: bytes, content: bytes) -> bytes:
    return _header(kind, len(content)) + _padded(content)


def _reader(content: bytes) -> TarReader:
    return TarReader(io.BytesIO(content + b"\0" * 2 * tar.BLOCK).read)


def _all(reader: TarReader) -> list[tuple[str, int, str]]:
    found: list[tuple[str, int, str]] = []
    while (entry := reader.next()) is not None:
        found.append((entry.name, entry.size, entry.kind))
    return found


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_contents_as_they_were_written(form: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    reader = _reader(file.getvalue())
    for name, data in FILES.items():
        found = reader.next()
        assert found is not None
        assert (found.name, found.size, found.kind) == (name, len(data), "file")
        assert reader.content(found.size) == data
    assert reader.next() is None


def test_long_names_of_ustar_and_the_times_of_gnu_in_their_place() -> None:
    block = _header(b"0", 0, LONG)
    assert _all(_reader(block)) == [(LONG, 0, "file")]
    entry = tarfile.TarInfo("a")
    gnu = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    gnu[345:356] = b"14724462461"
    gnu[148:156] = b" " * 8
    gnu[148:155] = b"%06o\0" % sum(gnu)
    assert _all(_reader(bytes(gnu))) == [("a", 0, "file")]


@pytest.mark.parametrize(
    ("kind", "size", "name", "expected"),
    [
        (b"\0", 3, "a", "file"),
        (b"7", 3, "a", "file"),
        (b"\0", 0, "a/", "folder"),
        (b"5", 3, "a", "folder"),
        (b"D", 3, "a", "folder"),
        *((kind, 3, "a", "other") for kind in (b"1", b"2", b"3", b"4", b"6")),
    ],
)
def test_kinds(kind: bytes, size: int, name: str, expected: str) -> None:
    content = b"" if kind in (b"1", b"2", b"3", b"4", b"5", b"6") else b"123"[:size]
    following = _header(b"0", 0, "next")
    ((found, *rest), last) = _all(_reader(_header(kind, size, name) + _padded(content) + following))
    assert (found.rstrip("/"), *rest) == (name.rstrip("/"), size, expected)
    assert last == ("next", 0, "file")


def test_extended_headers() -> None:
    records = _pax(("mtime", "1.5"), ("path", "p"), ("size", "3"), ("SCHILY.xattr.a", "x=\n1"))
    links = _extended(b"K", b"elsewhere\0")
    everywhere = _extended(b"g", b"17 comment=00123\n")
    content = everywhere + links + records + _header(b"0", 0) + _padded(b"abc") + _header(b"0", 0)
    assert _all(_reader(content)) == [("p", 3, "file"), ("a", 0, "file")]


def test_sizes_in_base_256_and_sums_of_signed_bytes() -> None:
    block = bytearray(_header(b"0", 0, "\u00e9"))
    block[124:136] = b"\x80" + (3).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) - 256 * sum(byte > 127 for byte in block))
    assert _all(_reader(bytes(block) + _padded(b"abc"))) == [("\u00e9", 3, "file")]


@pytest.mark.parametrize(
    "records", [(("GNU.sparse.major", "1"), ("GNU.sparse.name", "holes")), None]
)
def test_sparse_files_are_no_plain_files(records: tuple[tuple[str, str], ...] | None) -> None:
    block = _header(b"S", 0, "holes") if records is None else _pax(*records) + _header(b"0", 0)
    assert _all(_reader(block)) == [("holes", 0, "other")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_extended(b"x", b"1" * 300_000), "an extended header is damaged"),
        (_extended(b"x", b"2 " * 30_000 + b"="), "an extended header is damaged"),
        (_extended(b"g", b"99 path=a\n"), "an extended header is damaged"),
        (_extended(b"x", b"8 path=a\n"), "an extended header is damaged"),
        (_extended(b"x", b"3 path=a\n"), "an extended header is damaged"),
        (
            _pax(("size", "1" * 21)) + _header(b"0", 0),
            "in an extended header is malformed",
        ),
        (_pax(("size", "-1")) + _header(b"0", 0), "in an extended header is malformed"),
        (_header(b"x", 2**20 + 1), r"headers of a member must have at most \d+ bytes, got 1048577"),
        (_extended(b"L", b"a" * 2**19) * 3, "headers of a member must have at most"),
        (b"x" * tar.BLOCK, "a number in a header is malformed"),
        (_header(b"0", 0).replace(b"ustar", b"Ustar"), "a header is damaged"),
        (_header(b"0", 2**32), "ends within a member"),
    ],
)
def test_hostile_headers(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _all(_reader(content))


def test_files_that_end_too_soon() -> None:
    with pytest.raises(ValueError, match="no end mark"):
        TarReader(io.BytesIO(b"").read).next()
    reader = TarReader(io.BytesIO(_header(b"0", 9)).read)
    reader.next()
    with pytest.raises(ValueError, match="ends within a member"):
        reader.next()
