from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from mulfree import files
from mulfree.errors import ConfigError
from mulfree.files import (
    check_regular,
    check_writable,
    open_regular,
    read_regular,
    remove_parts,
    write_atomically,
)


def test_it_writes_and_replaces(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*file'"):
        write_atomically(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_parts_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for name in (".last.ckpt.7.part", ".0123456789abcdef.part", "last.ckpt", ".keep"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keep", "last.ckpt"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder / "target")
    (tmp_path / "chain").symlink_to("link")
    for content in (b"of a dangling link", b"new"):
        write_atomically(tmp_path / "chain", content)
        assert (folder / "target").read_bytes() == content
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "chain").is_symlink()


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(OSError, match=r"symbolic links.*link'"):
        write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o664])
def test_permissions_are_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomically(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_permissions_of_the_process(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 4321)
    write_atomically(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"content")
    reader.join(timeout=30)
    assert received == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(os.devnull)
    check_writable(tmp_path / "link")
    write_atomically(tmp_path / "link", b"content")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_device_that_is_full_says_so() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_atomically(Path("/dev/full"), b"content")


def test_many_threads_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_atomically, path, c) for c in contents * 30]:
            done.result()
    assert path.read_bytes() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"


def test_check_writable_writes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "result.json").write_text("old")
    check_writable(tmp_path / "result.json")
    assert (tmp_path / "result.json").read_text() == "old"


def test_check_writable_of_other_places(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none" / "target")
    for path in (tmp_path / "link", tmp_path / "none" / "result.json"):
        with pytest.raises(FileNotFoundError, match=rf"No such file or directory: '{path}'"):
            check_writable(path)
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        check_writable(tmp_path)


def test_regular_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    (tmp_path / "link").symlink_to(path)
    check_regular(tmp_path / "link")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"
    assert read_regular(path) == b"content"
    assert read_regular(path, 7) == b"content"
    with pytest.raises(OSError, match=r"Larger than 6 bytes.*file'"):
        read_regular(path, 6)


def test_nothing_else_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        for read in (check_regular, open_regular, read_regular):
            with pytest.raises(OSError, match=f"Not a regular file.*{name}'"):
                read(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")


def test_a_file_of_the_kernel_is_bounded_too() -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here")
    with pytest.raises(OSError, match="Larger than 16 bytes"):
        read_regular(Path("/proc/self/maps"), 16)


def test_a_home_directory_stands_for_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expanded("~/a~") == "/home/me/a~"
    assert files.expanded("~") == "/home/me"
    for same in ("a/~", "./~", "a b", "/~"):
        assert files.expanded(same) == same


@pytest.mark.parametrize("path", ["", " ", "a\0b"])
def test_what_no_file_is_called(path: str) -> None:
    with pytest.raises(ValueError, match="no file can be called"):
        files.expanded(path)
    with pytest.raises(ValueError, match="surrogates not allowed"):
        files.expanded("\ud800")


def test_paths_of_a_frozen_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Config:
        root: str
        cache: str | None = None

    monkeypatch.setenv("HOME", "/home/me")
    config = Config("~/a")
    files.expand_paths("Config", config, "root", "cache")
    assert config == Config("/home/me/a")
    for path in ("", "a\0b"):
        with pytest.raises(ConfigError, match=r"^Config: `root` must be a path, got "):
            files.expand_paths("Config", Config(path), "root")


of_a_fork = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def test_a_directory_is_kept_once_and_nothing_stays(tmp_path: Path) -> None:
    for _ in range(2):
        with files.locked(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())
            with (
                pytest.raises(BlockingIOError, match=f"process {os.getpid()}"),
                files.locked(tmp_path),
            ):
                raise AssertionError("kept twice")
            assert (tmp_path / ".lock").exists()
        assert list(tmp_path.iterdir()) == []


@of_a_fork
def test_a_lock_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    ready, write = os.pipe()
    child = os.fork()
    if child == 0:
        with files.locked(tmp_path):
            os.write(write, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    with pytest.raises(BlockingIOError, match=f"process {child}"), files.locked(tmp_path):
        raise AssertionError("kept twice")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with files.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    os.close(ready)
    os.close(write)


@of_a_fork
def test_a_forked_process_keeps_no_lock(tmp_path: Path) -> None:
    ready, write = os.pipe()
    with files.locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.read(ready, 1)
            os._exit(0)
    with files.locked(tmp_path):
        os.write(write, b"x")
        assert os.waitpid(child, 0)[1] == 0
        assert (tmp_path / ".lock").exists()
    os.close(ready)
    os.close(write)


def test_a_lock_is_none_of_what_was_planted_there(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    for plant in (os.symlink, os.link):
        plant(other, tmp_path / ".lock")
        with pytest.raises(OSError, match=r"symbolic links|Not a lock"), files.locked(tmp_path):
            raise AssertionError("kept")
        (tmp_path / ".lock").unlink()
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(OSError, match="Not a lock"), files.locked(tmp_path):
        raise AssertionError("kept")
    assert other.read_text() == "mine"


def test_a_directory_that_is_deleted_or_replaced_while_it_is_kept(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    with files.locked(directory):
        shutil.rmtree(directory)
    directory.mkdir()
    with files.locked(directory):
        shutil.rmtree(directory)
        directory.mkdir()
        (directory / ".lock").write_text("another's")
    assert (directory / ".lock").read_text() == "another's"


def test_where_there_are_no_locks_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*args: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with files.locked(tmp_path), files.locked(tmp_path):
        pass
    monkeypatch.setattr(files, "fcntl", None)
    with files.locked(tmp_path), files.locked(tmp_path):
        pass
