from __future__ import annotations

import errno
import gzip
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.files import write_folder, write_tar, write_zip

from mulfree.data.containers import archive
from mulfree.data.containers.archive import iter_files
from mulfree.data.containers.folder import folder_files
from mulfree.errors import ArtifactError

FILES = {"b/two.bin": b"22", "b/one.bin": b"1" * 512, "a.bin": b""}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_tar_in_its_own_order_whatever_it_is_called(tmp_path: Path, mode: str) -> None:
    path = write_tar(tmp_path / "anything", FILES, mode)
    read = list(iter_files(path))
    assert [(member.name, member.data) for member in read] == list(FILES.items())
    assert 0 < read[0].progress <= read[-1].progress <= 1


def test_zip_and_folder(tmp_path: Path) -> None:
    zipped = list(iter_files(write_zip(tmp_path / "x.zip", FILES)))
    assert {member.name: member.data for member in zipped} == FILES
    assert [member.progress for member in zipped] == [1 / 3, 2 / 3, 1.0]
    folder = list(iter_files(write_folder(tmp_path / "x", FILES)))
    assert [(member.name, member.data) for member in folder] == sorted(FILES.items())


@pytest.mark.parametrize("kind", ["tar", "zip", "folder"])
def test_unwanted_members_may_be_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write = {"tar": write_tar, "zip": write_zip, "folder": write_folder}[kind]
    path = write(tmp_path / kind, {"big": b"x" * 5000, "small": b"y"})
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 1024)
    assert [member.data for member in iter_files(path, lambda name: name == "small")] == [b"y"]
    with pytest.raises(ArtifactError, match=r"member 'big' must have at most 1024 bytes, got 5000"):
        list(iter_files(path))


def test_folders_linked_in_a_circle_are_read_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "x", {"a/file": b"1"})
    (tmp_path / "x" / "a" / "round").symlink_to(tmp_path / "x")
    assert [member.name for member in iter_files(tmp_path / "x")] == ["a/file"]


@pytest.mark.parametrize("write", [write_tar, write_zip])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil", r"member '\.\./evil' must not point outside"),
        ("a/../../evil", "must not point outside"),
        ("/etc/passwd", "must not point outside"),
        ("C:/evil", "must not point outside"),
        ("a\\evil", "must have a printable name"),
        ("a/\x1b[31m", "must have a printable name"),
        ("a\nb", r"member 'a\\nb' must have a printable name"),
        *((name, "must have a printable name") for name in ("a\x7f", "a\x9bm", "a/\tb")),
    ],
)
def test_names_that_lead_elsewhere(
    tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path], name: str, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        list(iter_files(write(tmp_path / "hostile", {name: b"x"})))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "hostile") in str(caught.value)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_tar_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo("train/cat/1.png")
    entry.type, entry.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        file.addfile(entry)
    with pytest.raises(ArtifactError, match=r"'train/cat/1.png' must be a plain file, not a link"):
        list(iter_files(tmp_path / "x.tar"))


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2", "zip"])
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    zeros = {f"{number}": bytes(10**6) for number in range(3)}
    path = tmp_path / "bomb"
    path = write_zip(path, zeros) if mode == "zip" else write_tar(path, zeros, mode)
    monkeypatch.setattr(archive, "MIN_EXPANDED", 2 * 10**6)
    monkeypatch.setattr(archive, "MAX_EXPANSION", 2)
    with pytest.raises(ArtifactError, match=r"bomb must hold at most 2000000 bytes unpacked"):
        list(iter_files(path))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2", "zip"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_truncated(tmp_path: Path, mode: str, share: float) -> None:
    path = tmp_path / "cut"
    contents = {f"{n}": bytes(range(256)) * 40 for n in range(4)}
    path = write_zip(path, contents) if mode == "zip" else write_tar(path, contents, mode)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ArtifactError, match=r"cut(: member '\d' is cut off| is damaged)") as caught:
        list(iter_files(path))
    assert "\n" not in str(caught.value)


def changed(content: bytes, place: int, other: bytes) -> bytes:
    return content[:place] + other + content[place:][len(other) :]


def directory(content: bytes) -> int:
    return content.index(b"PK\x01\x02")


@pytest.mark.parametrize(
    ("kind", "damage", "reason"),
    [
        ("w", lambda tar: tar[:1024], "no end mark"),
        ("w", lambda tar: changed(tar, 1024, b"\xff" * 76), ""),
        ("w:bz2", lambda bz2: changed(bz2, 4, b"\xff" * 6), "Invalid data stream"),
        ("w", lambda tar: gzip.compress(b"hello" * 1000), "no end mark|a number"),
        ("zip", lambda file: changed(file, directory(file) + 16, b"\1\2\3\4"), "Bad CRC-32"),
        # Flags of an encrypted member, in its header and in the directory.
        ("zip", lambda f: changed(changed(f, 6, b"\1"), directory(f) + 8, b"\1"), "encrypted"),
        # The directory's own position, at the end of the file, shifts all positions in it.
        ("zip", lambda f: changed(f, len(f) - 6, struct.pack("<I", directory(f) + 5)), ""),
    ],
)
def test_damaged(tmp_path: Path, kind: str, damage: Callable[[bytes], bytes], reason: str) -> None:
    contents = {"a": b"x" * 512, "b": b"y" * 512}
    path = tmp_path / "x"
    path = write_zip(path, contents) if kind == "zip" else write_tar(path, contents, kind)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match=rf"x is damaged or incomplete: .*({reason})"):
        list(iter_files(path))


@pytest.mark.parametrize("content", [b"", b"hello", bytes(600), b"\x89PNG\r\n" + bytes(600)])
def test_not_an_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar.xz").write_bytes(content)
    with pytest.raises(
        ArtifactError, match=r"`root` must be a folder, .tar.*a file of another kind"
    ):
        list(iter_files(tmp_path / "x.tar.xz"))


def test_a_fault_of_the_disk_stays_one(tmp_path: Path) -> None:
    def fail(name: str) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error") as caught:
        list(iter_files(write_zip(tmp_path / "x.zip", FILES), fail))
    assert not isinstance(caught.value, ArtifactError)


SYSTEM = (
    ".DS_Store",
    "a/.#one",
    "a/._one.png",
    ".git/config",
    "a/Thumbs.db",
    "a/THUMBS.DB",
    "desktop.ini",
    "a/Desktop.ini",
    "__MACOSX/a/one.png",
    "a/Icon\r",
    "@eaDir/one.png",
    "$RECYCLE.BIN/one.png",
    "#recycle/train/cat/1.png",
    "@Recycle/train/cat/1.png",
    "a/one.png~",
    "a/#one.png#",
    "a/~$labels.xlsx",
    "System Volume Information/x",
)


@pytest.mark.parametrize("write", [write_tar, write_zip, write_folder])
def test_hidden_and_system_files_are_skipped(
    tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    path = write(tmp_path / "x", {**dict.fromkeys(SYSTEM, b"rubbish"), "a/one": b"1"})
    assert [member.name for member in iter_files(path)] == ["a/one"]


NAMES = (
    "train/cat/Screenshot 2024-05-01 at 9.41.00\u202fAM.png",
    "train/\u5199\u771f\u3000\u96c6/\u00a01.png",
    "train/\U0001f469\u200d\U0001f52c/\u2764\ufe0f.png",
    "train/a\u2028b/\u202e.png",
    "train/C#/#1.png",
    "train/a~/~b.png",
    "train/#x#/$#~1.png",
    "10:20/x",
    "..x/y",
)


@pytest.mark.parametrize("write", [write_tar, write_zip, write_folder])
def test_names_of_any_script(
    tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    path = write(tmp_path / "x", dict.fromkeys(NAMES[:-1], b"1"))
    assert sorted(member.name for member in iter_files(path)) == sorted(NAMES[:-1])


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"train/caf\xe9/1.png")
    path = write_tar(tmp_path / "x.tar", {name: b"1"})
    assert [member.name for member in iter_files(path)] == [name]
    folder = write_folder(tmp_path / "x", {name: b"1"})
    assert [member.name for member in iter_files(folder)] == [name]


def test_tar_of_the_folder_it_lies_in(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {"train/a/1.png": b"1", "test/b.png": b"2"})
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        file.add(tmp_path / "set", arcname=".")
    with tarfile.open(tmp_path / "x.tar") as file:
        assert {"", ".", "./train"} & set(file.getnames())
    read = {member.name: member.data for member in iter_files(tmp_path / "x.tar")}
    assert read == {"train/a/1.png": b"1", "test/b.png": b"2"}


def test_parts_of_a_name_that_say_nothing(tmp_path: Path) -> None:
    asked: list[str] = []

    def note(name: str) -> bool:
        asked.append(name)
        return True

    path = write_zip(tmp_path / "x.zip", {"./a//b/./c": b"1", "a/": b"", "d/e/": b"", "#": b"?"})
    path.write_bytes(path.read_bytes().replace(b"#", b"\0"))  # Python writes no empty names
    assert [member.name for member in iter_files(path, note)] == asked == ["a/b/c"]
    path = write_tar(tmp_path / "x.tar", {"./a//b/./c": b"1", "./": b"", "": b"?"})
    assert [member.name for member in iter_files(path)] == ["a/b/c"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("again", ["a/b", "./a/b", "a//b"])
def test_a_member_that_occurs_twice(tmp_path: Path, kind: str, again: str) -> None:
    path = tmp_path / kind
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name in ("a/b", "c", again):
                zipped.writestr(name, name)
    else:
        with tarfile.open(path, "w") as file:
            for name in ("a/b", "c", again):
                file.addfile(tarfile.TarInfo(name))
    with pytest.raises(ArtifactError, match="member 'a/b' must not occur twice"):
        list(iter_files(path))
    assert [member.name for member in iter_files(path, lambda name: name == "c")] == ["c"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_links_outside_the_filter_are_skipped(tmp_path: Path, kind: str) -> None:
    if kind == "zip":
        link = zipfile.ZipInfo("latest")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / kind, "w") as zipped:
            zipped.writestr(link, "a")
            zipped.writestr("a", "1")
    else:
        entry = tarfile.TarInfo("latest")
        entry.type, entry.linkname = tarfile.SYMTYPE, "a"
        with tarfile.open(tmp_path / kind, "w") as file:
            file.addfile(entry)
            file.addfile(tarfile.TarInfo("a"))
    assert [member.name for member in iter_files(tmp_path / kind, lambda name: name == "a")] == [
        "a"
    ]
    with pytest.raises(ArtifactError, match="member 'latest' must be a plain file, not a link"):
        list(iter_files(tmp_path / kind))


def test_links_to_nothing_are_skipped(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", {"a/one": b"1"})
    for name, target in (
        ("a/.#one", "somebody@somewhere.1234:1"),
        ("a/gone", "nowhere"),
        ("a/self", "self"),
        ("a/within", "one/two"),
    ):
        (folder / name).symlink_to(target)
    assert [member.name for member in iter_files(folder)] == ["a/one"]


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_pipes_and_devices_in_a_folder(tmp_path: Path, kind: str) -> None:
    folder = write_folder(tmp_path / "x", {"a/one": b"1"})
    os.mkfifo(folder / "a" / ".pipe")
    if kind == "pipe":
        os.mkfifo(folder / "a" / "two")
    else:
        (folder / "a" / "two").symlink_to("/dev/zero")
    with pytest.raises(
        ArtifactError, match="member 'a/two' must be a plain file, not a pipe or device"
    ):
        list(iter_files(folder))
    assert [m.name for m in iter_files(folder, lambda name: name != "a/two")] == ["a/one"]


@pytest.mark.parametrize("kind", ["pipe", "device", "missing"])
def test_pipes_and_devices_as_archives(tmp_path: Path, kind: str) -> None:
    path = {"device": Path("/dev/zero")}.get(kind, tmp_path / kind)
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ArtifactError, match=r"`root` must be a folder, .*a file of another kind"):
        next(iter_files(path))


def test_a_deep_folder(tmp_path: Path) -> None:
    deepest, here = tmp_path, os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):  # deeper than calls may be nested
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, deepest = below, deepest / "d"
    os.close(here)
    (deepest / "file").write_bytes(b"1")
    try:
        assert [len(member.name) for member in iter_files(tmp_path)] == [2 * 1200 + 4]
    finally:
        (deepest / "file").unlink()
        for _ in range(1200):
            deepest.rmdir()
            deepest = deepest.parent


def test_a_folder_that_cannot_be_read_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "x", {"a/one": b"1", "b/two": b"2"})
    listed = os.listdir

    def refuse(path: Any) -> Any:
        if os.fspath(path).endswith("b"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*b'\)$"):
        list(iter_files(folder))


def test_a_file_that_cannot_be_looked_at_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "x", {"a/one": b"1"})
    look = Path.stat

    def refuse(path: Path) -> os.stat_result:
        if path.name == "one":
            raise OSError(errno.EIO, "Input/output error", path)
        return look(path)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        folder_files(folder)


def test_bytes_of_the_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", {"a/one": b"12", "two": b"345", ".hidden": b"6789"})
    assert archive.file_bytes(folder) == 5
    assert archive.file_bytes(folder / "two") == 3
