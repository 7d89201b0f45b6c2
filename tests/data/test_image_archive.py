from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.data.files import labelled, pixels, png, uint8, write_folder, write_tar, write_zip
from tests.data.test_cache import full_disk

from mulfree.data import DataConfig, image_archive
from mulfree.data.image_archive import Contents, load_images
from mulfree.errors import ArtifactError

Write = Callable[[Path, dict[str, bytes]], Path]


def load(path: Path, side: int | None = None) -> Contents:
    return load_images(path, DataConfig(), None, side=side)


def xz(path: Path, members: dict[str, bytes]) -> Path:
    return write_tar(path, members, "w:xz")


@pytest.mark.parametrize("write", [write_tar, xz, write_zip, write_folder])
def test_pixels_labels_and_classes(tmp_path: Path, write: Write) -> None:
    files = labelled(classes=3, side=8, each=2, splits=("train", "test"))
    beside = {"README": b"hi", "train/class000/.hidden": b"", "__MACOSX/train/class000/0.png": b""}
    classes, splits = load(write(tmp_path / "images", {**beside, **files}))
    assert classes == ("class000", "class001", "class002")
    # A folder's test comes before its train, but both hold the same as in an archive.
    assert set(splits) == {"train", "test"}
    for offset, split in ((0, "train"), (6, "test")):
        assert splits[split].labels.tolist() == [0, 0, 1, 1, 2, 2]
        for number, image in enumerate(splits[split].images):
            assert torch.equal(image, uint8(pixels(offset + number, 8)))


def test_classes_are_numbered_by_name_and_splits_by_any_of_their_names(tmp_path: Path) -> None:
    image = png(pixels(0, 8))
    names = ("x/Training/zebra/1.png", "x/val/ape/1.png", "x/Training/ape/1.png")
    classes, splits = load(write_zip(tmp_path / "x.zip", dict.fromkeys(names, image)))
    assert classes == ("ape", "zebra")
    assert splits["train"].labels.tolist() == [1, 0]
    assert splits["val"].labels.tolist() == [0]


def test_decoded_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "x.tar", labelled(side=8))
    shares: list[float] = []
    first = load_images(path, DataConfig(), shares.append, side=None)
    assert len(shares) == 8
    assert shares == sorted(shares)

    def refuse(*arguments: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(image_archive, "decode_all", refuse)
        second = load(path)
    assert torch.equal(first[1]["train"].images, second[1]["train"].images)
    assert len(os.listdir(cache)) == 1
    load(path, side=4)
    assert len(os.listdir(cache)) == 2


def test_a_damaged_cache_is_made_again(tmp_path: Path, cache: Path) -> None:
    path = write_tar(tmp_path / "x.tar", labelled(side=8))
    images = load(path)[1]["train"].images.clone()
    (entry,) = cache.iterdir()
    for name, content in (
        ("train.images.npy", b""),
        ("train.labels.npy", (entry / "test.images.npy").read_bytes()),
        ("meta.json", b"{}"),
        ("meta.json", b'{"classes": [], "splits": ["nothing"]}'),
    ):
        (entry / name).write_bytes(content)
        assert torch.equal(load(path)[1]["train"].images, images)


def test_resized(tmp_path: Path) -> None:
    files = {"train/a/1.png": png(pixels(0, 12)), "train/a/2.png": png(pixels(1, 20))}
    _, splits = load(write_tar(tmp_path / "x.tar", files), side=6)
    assert splits["train"].images.shape == (2, 3, 6, 6)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"train/a/notes.txt": b"hello"}, r"'train/a/notes.txt' must be an intact JPEG, PNG"),
        ({"train/a/1.png": b""}, r"'train/a/1.png' must be an intact JPEG, PNG"),
        ({"train/a/b/1.png": b""}, r"'train/a/b/1.png' must lie in split/class/, .*test, train, v"),
        ({"train/1.png": b""}, r"'train/1.png' must lie in split/class/"),
        ({"test/new/1.png": png(pixels(0, 8))}, r"class 'new' of test must also be in train"),
        (
            {"train/a/1.png": png(pixels(0, 9))},
            r"images must all have one size where `image_size` is not given, got 9 x 9 in train/a "
            r"after 8 x 8",
        ),
        (
            {"val/class000/1.png": png(pixels(0, 9))},
            r"got 9 x 9 in val/class000 after 8 x 8",
        ),
    ],
)
def test_rejects(tmp_path: Path, cache: Path, extra: dict[str, bytes], message: str) -> None:
    path = write_tar(tmp_path / "x.tar", {**labelled(side=8), **extra})
    with pytest.raises(ArtifactError, match=f"^data.load: .*x.tar.*{message}"):
        load(path)
    assert os.listdir(cache) == []


@pytest.mark.parametrize(
    ("files", "got"), [({"README": b"x"}, "none"), (labelled(splits=("test",)), "test")]
)
def test_needs_training_images(tmp_path: Path, files: dict[str, bytes], got: str) -> None:
    with pytest.raises(ArtifactError, match=f"with a split named train, got {got}$"):
        load(write_tar(tmp_path / "x.tar", files))


def test_a_full_disk_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = write_tar(tmp_path / "x.tar", labelled(side=32, each=20))
    with (
        full_disk(8192),
        pytest.raises(OSError, match=r"cannot write the cache .*: File too large"),
    ):
        load(path)
    assert os.listdir(cache) == []
