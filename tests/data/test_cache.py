from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.files import write_folder

from mulfree.data.cache import (
    ArrayWriter,
    cache_folder,
    cached,
    fingerprint,
    map_array,
    seal,
    unseal,
)
from mulfree.data.row_digests import row_digests
from mulfree.errors import ArtifactError


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: writes fail in earnest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(folder: Path) -> None:
    (folder / "value").write_text("42")


def read(folder: Path) -> int:
    return int((folder / "value").read_text())


def refuse(folder: Path) -> None:
    raise AssertionError("built again")


def test_builds_once(cache: Path) -> None:
    assert cached(cache, "x", build=fill, load=read) == 42
    assert cached(cache, "x", build=refuse, load=read) == 42
    assert os.listdir(cache) == ["x"]


def test_a_failed_build_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(cache, "x", build=fail, load=read)
    assert os.listdir(cache) == []


def test_another_process_may_be_first(cache: Path) -> None:
    def build_meanwhile(folder: Path) -> None:
        assert cached(cache, "x", build=fill, load=read) == 42
        (folder / "value").write_text("7")

    assert cached(cache, "x", build=build_meanwhile, load=read) == 42
    assert os.listdir(cache) == ["x"]


@pytest.mark.parametrize("place", ["damaged", "link", "dangling", "file", "pipe"])
def test_what_has_the_place_of_an_entry_is_removed(cache: Path, tmp_path: Path, place: str) -> None:
    cache.mkdir(exist_ok=True)
    elsewhere = tmp_path / "elsewhere"
    if place == "damaged":
        (cache / "x").mkdir()
    if place == "link":
        elsewhere.mkdir()
        (elsewhere / "value").write_text("")
    if place in ("link", "dangling"):
        (cache / "x").symlink_to(elsewhere)
    elif place == "file":
        (cache / "x").write_text("")
    elif place == "pipe":
        os.mkfifo(cache / "x")
    assert cached(cache, "x", build=fill, load=read) == 42
    assert not (cache / "x").is_symlink()
    # A link's target is another's.
    assert place != "link" or (elsewhere / "value").read_text() == ""


def test_a_damaged_entry_that_cannot_be_removed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "x").mkdir(parents=True)
    (cache / "x" / "value").write_text("")
    remove = shutil.rmtree

    def keep_the_entry(path: Path, ignore_errors: bool) -> None:
        if path != cache / "x":
            remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", keep_the_entry)
    with pytest.raises(ArtifactError, match=r"the cache entry .*/x is damaged and must be removed"):
        cached(cache, "x", build=fill, load=read)
    assert os.listdir(cache) == ["x"]


def test_what_a_killed_process_left_is_removed_after_a_day(cache: Path) -> None:
    old, new, other = (cache / f"{name}.partial-0" for name in ("x", "x.partial-1", "y"))
    for folder in (old, new, other):
        folder.mkdir(parents=True)
    new = new.rename(cache / "x.partial-1")
    past = time.time() - 2 * 24 * 3600
    os.utime(old, (past, past))
    os.utime(other, (past, past))
    cached(cache, "x", build=fill, load=read)
    assert sorted(os.listdir(cache)) == ["x", "x.partial-1", "y.partial-0"]


def test_a_failure_to_write_is_one_short_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "\x1b[2J\n" / ("x" * 1000)
    with pytest.raises(
        OSError, match=r"^data.load: cannot write the cache .*: Not a directory; name another"
    ) as caught:
        cached(folder, "x", build=fill, load=read)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 400


def test_a_rename_that_fails_for_another_reason(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(
        OSError, match=r"cannot write the cache .*: Permission denied; name another"
    ):
        cached(cache, "x", build=fill, load=read)
    assert os.listdir(cache) == []


def test_folder_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder("/chosen") == Path("/chosen")
    assert cache_folder("~/x") == Path.home() / "x"
    monkeypatch.setenv("MULFREE_CACHE", "/named")
    assert cache_folder(None) == Path("/named")
    monkeypatch.delenv("MULFREE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder(None) == Path("/xdg/mulfree")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(None) == Path.home() / ".cache" / "mulfree"


def test_fingerprint_changes_with_content_and_options(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data.v1", {"a/1": b"x", "a/2": b"y"})
    prints = [fingerprint(folder, side=None)]
    assert fingerprint(folder, side=None) == prints[0]
    assert prints[0].startswith("data-")
    prints.append(fingerprint(folder, side=32))
    (folder / "a" / "1").write_bytes(b"xx")
    prints.append(fingerprint(folder, side=None))
    os.utime(folder / "a" / "2", ns=(1, 1))
    prints.append(fingerprint(folder, side=None))
    (folder / "a" / "2").unlink()
    prints.append(fingerprint(folder, side=None))
    prints.append(fingerprint(folder / "a" / "1", side=None))
    assert len(set(prints)) == 6


@pytest.mark.parametrize("count", [0, 1, 9, 10, 1234])
def test_array_writer(tmp_path: Path, count: int) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (count, 2, 3), dtype=np.uint8)
    with ArrayWriter(tmp_path / "x.npy", (2, 3)) as writer:
        for number, piece in enumerate(np.array_split(rows, 5)):
            writer.append(piece if number % 2 else np.asfortranarray(piece))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), rows)


def test_array_writer_on_a_full_disk(tmp_path: Path) -> None:
    def write(rows: int) -> None:
        with ArrayWriter(tmp_path / "x.npy", (1024,)) as writer:
            for _ in range(rows):
                writer.append(np.zeros((1, 1024), np.uint8))

    for rows in (3, 100):  # noticed at the end, and on the way
        with (
            full_disk(2048),
            pytest.raises(OSError, match=r"cannot write the cache .*: File too large; name anoth"),
        ):
            write(rows)


def test_mapped_arrays_are_lazy_and_private(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.uint8))
    tensor = map_array(tmp_path / "x.npy")
    tensor[0] = 99
    assert tensor.tolist()[:3] == [99, 1, 2]
    assert torch.equal(map_array(tmp_path / "x.npy"), torch.arange(10, dtype=torch.uint8))


def test_mapped_arrays_hold_no_pickles(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        map_array(tmp_path / "x.npy")


def test_fingerprint_is_that_of_the_data(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", {"train/a/1.png": b"x"})
    before = fingerprint(folder)
    beside = (".DS_Store", "train/Thumbs.db", "train/a/desktop.ini", "train/.cache/x", "@eaDir/x")
    write_folder(folder, dict.fromkeys(beside, b"y"))
    (folder / "train" / "a" / ".#1.png").symlink_to("somebody@somewhere")
    (folder / "gone").symlink_to("nowhere")
    assert fingerprint(folder) == before
    write_folder(folder, {"train/a/2.png": b"y"})
    assert fingerprint(folder) != before


def test_an_entry_of_a_source_with_a_long_name(tmp_path: Path, cache: Path) -> None:
    folder = write_folder(tmp_path / ("\u5199" * 80), {"a": b""})
    key = fingerprint(folder)
    assert key.startswith("\u5199" * 40 + "-")
    assert cached(cache, key, build=fill, load=read) == 42


def sealed(folder: Path) -> Path:
    folder.mkdir()
    (folder / "small").write_bytes(b"hello")
    seal(folder, {"names": ("a", "\u00e9"), "count": 3}, ["small"])
    return folder


def test_a_sealed_entry(tmp_path: Path) -> None:
    content, files = unseal(sealed(tmp_path / "entry"))
    assert content == {"names": ["a", "\u00e9"], "count": 3}
    assert files == {"small": b"hello"}


@pytest.mark.parametrize("name", ["small", "index.json"])
def test_a_flipped_bit_of_a_sealed_entry_is_found(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    folder = sealed(tmp_path / "entry")
    intact = (folder / name).read_bytes()
    content = unseal(folder)
    bits = range(0, 8 * len(intact), 5)
    refused = 0
    for bit in bits:
        changed = bytearray(intact)
        changed[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(changed)
        try:
            # JSON has several texts for one content, as in the case of escapes.
            assert unseal(folder) == content
        except (ArtifactError, ValueError, OSError, KeyError):
            refused += 1
    assert refused >= len(bits) - 2


def test_a_damaged_entry_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sealed(tmp_path / "entry")
    (folder / "small").write_bytes(b"jello")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(ArtifactError, match=r"entry .*entry is damaged and must be removed; "):
            unseal(folder)
    with pytest.raises(
        ArtifactError, match=r"entry .*entry is damaged and has been removed; start again to build"
    ):
        unseal(folder)
    assert not folder.exists()


def test_a_pipe_in_an_entry_is_not_read(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "entry")
    os.mkfifo(folder / "x.npy")
    with pytest.raises(OSError, match="Not a regular file"):
        map_array(folder / "x.npy")
    for name in ("small", "index.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(OSError, match="Not a regular file"):
            unseal(folder)


def test_space_that_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    rows = np.zeros((3, 100), np.uint8)
    with ArrayWriter(tmp_path / "x.npy", (100,), reserve=700) as writer:
        writer.append(rows)
        with pytest.raises(
            OSError,
            match=r"^data.load: cannot write the cache .*: 400 more bytes are needed and 300 "
            r"available beside the 700 that stay free \(`min_free_bytes`\); name another folder",
        ):
            writer.append(np.zeros((4, 100), np.uint8))
    assert np.load(tmp_path / "x.npy").shape == (3, 100)
    np.testing.assert_array_equal(writer.digests, row_digests(rows))
