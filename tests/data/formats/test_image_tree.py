from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.files import labelled, pixels, png, uint8, write_folder, write_tar, write_zip

from mulfree.data import BatchLoader, DataConfig
from mulfree.data.formats import image_tree
from mulfree.data.formats.image_tree import Contents, load_image_tree
from mulfree.errors import ArtifactError

Write = Callable[[Path, dict[str, bytes]], Path]


def load(path: Path, side: int | None = None) -> Contents:
    return load_image_tree(path, DataConfig(), None, side=side)


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
    names = [
        *("x/Training/zebra/1.png", "x/val/ape/1.png", "x/Training/ape\u00a0x/\u202f1.png"),
        *("x/val/ape x/1.png", "x/Training/ape/1.png"),
    ]
    classes, splits = load(write_zip(tmp_path / "x.zip", dict.fromkeys(names, image)))
    assert classes == ("ape", "ape x", "zebra")
    assert splits["train"].labels.tolist() == [2, 1, 0]
    assert splits["val"].labels.tolist() == [0, 1]


def test_decoded_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "x.tar", labelled(side=8))
    shares: list[float] = []
    first = load_image_tree(path, DataConfig(), shares.append, side=None)
    assert len(shares) == 8
    assert shares == sorted(shares)

    def refuse(*arguments: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(image_tree, "decode_all", refuse)
        second = load(path)
    assert torch.equal(first[1]["train"].images, second[1]["train"].images)
    assert len(os.listdir(cache)) == 1
    load(path, side=4)
    assert len(os.listdir(cache)) == 2
    monkeypatch.setattr(image_tree, "_VERSION", 1)
    load(path)
    assert len(os.listdir(cache)) == 3


def test_a_damaged_cache_is_made_again(tmp_path: Path, cache: Path) -> None:
    path = write_tar(tmp_path / "x.tar", labelled(side=8))
    images = load(path)[1]["train"].images.clone()
    (entry,) = cache.iterdir()
    train = (entry / "train.images.npy").read_bytes()
    for name, content in (
        ("train.images.npy", b""),
        ("train.labels.npy", (entry / "test.images.npy").read_bytes()),
        ("train.images.npy", train.replace(b"(4, 3, 8, 8)", b"(4, 8, 3, 8)")),
        ("train.digests.npy", b""),
        ("index.json", b"{}"),
        ("index.json", b"[]"),
        ("index.json", b'{"sha256": "", "files": {}, "content": {"splits": ["nothing"]}}'),
    ):
        (entry / name).write_bytes(content)
        assert torch.equal(load(path)[1]["train"].images, images)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"train/a/notes.txt": b"hello"}, r"'train/a/notes.txt' must be an intact JPEG, PNG"),
        ({"train/a/1.png": b""}, r"'train/a/1.png' must be an intact JPEG, PNG"),
        ({"train/a/b/1.png": b""}, r"'train/a/b/1.png' must lie in split/class/, .*test, train, v"),
        ({"train/1.png": b""}, r"'train/1.png' must lie in split/class/"),
        ({"test/new/1.png": png(pixels(0, 8))}, r"class 'new' of test must also be in train"),
        ({f"train/{'x' * 201}/1.png": png(pixels(0, 8))}, r"a class must have .* of 201$"),
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


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_in_the_cache_changes_nothing(tmp_path: Path, cache: Path) -> None:
    path = write_tar(tmp_path / "x.tar", labelled(side=4))
    classes, splits = load(path)
    expected = {split: (s.images.clone(), s.labels.clone()) for split, s in splits.items()}
    (entry,) = cache.iterdir()
    files = sorted(entry.iterdir())
    assert len(files) == 7
    chance = np.random.default_rng(0)
    for file in files:
        for bit in chance.choice(8 * file.stat().st_size, 4, replace=False):
            flip(file, int(bit))
            got_classes, got = load(path)
            assert got_classes == classes
            for split, (images, labels) in expected.items():
                assert torch.equal(got[split].images, images)
                assert torch.equal(got[split].labels, labels)


def test_a_large_set_is_checked_where_it_is_read(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_tree, "_CHECKED_AT_ONCE", 0)
    path = write_tar(tmp_path / "x.tar", labelled(side=8, each=4))
    before = load(path)[1]["train"].images.clone()
    (entry,) = cache.iterdir()
    offset = 8 * ((entry / "train.images.npy").stat().st_size - 1)  # of the last image
    flip(entry / "train.images.npy", offset)
    train = load(path)[1]["train"]
    assert torch.equal(train.subset(torch.arange(7)).images, before[:7])
    with pytest.raises(ArtifactError, match=r"cache entry .*x-\w+ is damaged and has been removed"):
        list(BatchLoader(train, 2, train=True))
    assert os.listdir(cache) == []
    assert torch.equal(load(path)[1]["train"].images, before)


def test_a_bound_is_raised_by_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    black = png(np.zeros((3, 32, 32), np.uint8))
    path = xz(tmp_path / "x.tar.xz", dict.fromkeys(labelled(), black))

    monkeypatch.setattr("mulfree.data.containers.bounds.FLOOR_BYTES", 1000)

    def attempt(**bounds: int) -> int:
        config = DataConfig(cache=str(tmp_path / "c"), **bounds)  # type: ignore[arg-type]
        try:
            return len(load_image_tree(path, config, None, side=None)[1]["train"])
        finally:
            shutil.rmtree(tmp_path / "c")

    with pytest.raises(ArtifactError, match=r"must not be decoded to more than 1000 bytes"):
        attempt(max_expansion=1)
    assert attempt(max_expansion=2000) == 4
    with pytest.raises(ArtifactError, match=r"must have at most 1023 pixels, got 32 x 32"):
        attempt(max_image_pixels=1023)
    assert attempt(max_image_pixels=1024, max_decoding_bytes=1) == 4
    with pytest.raises(OSError, match=r"stay free \(`min_free_bytes`\); name another folder"):
        attempt(min_free_bytes=2**61)


def test_splits_may_spell_a_class_in_different_ways(tmp_path: Path) -> None:
    image = png(pixels(0, 8))
    names = ("train/a/1.png", "train/cafe\u0301 noir/1.png", "test/caf\u00e9\u00a0noir/1.png")
    classes, splits = load(write_zip(tmp_path / "x.zip", dict.fromkeys(names, image)))
    assert classes == ("a", "caf\u00e9 noir")
    assert splits["test"].labels.tolist() == [1]
