from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.files import (
    cifar10,
    cifar100,
    cifar_batch,
    cifar_rows,
    labelled,
    pixels,
    python2_dict,
    uint8,
    write_folder,
    write_tar,
)

from mulfree import data
from mulfree.data import DataConfig, ShiftFlip
from mulfree.errors import ArtifactError

REAL = Path(os.environ.get("MULFREE_DATA", "/nonexistent"), "cifar10-images.tar.xz")


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_cifar10_batches(tmp_path: Path, archived: bool, inside: bool) -> None:
    files = {**cifar10(), "readme.html": b"hello"}
    if archived:
        files = {f"cifar-10-batches-py/{name}": file for name, file in files.items()}
        root = write_tar(tmp_path / "cifar-10-python.tar.gz", files, "w:gz")
    else:
        root = write_folder(tmp_path / "cifar-10-batches-py", files)
    splits = data.load(DataConfig(name="cifar10", root=str(tmp_path if inside else root)))
    expected = np.concatenate([cifar_rows(number) for number in range(1, 6)]).reshape(10, 3, 32, 32)
    np.testing.assert_array_equal(splits.train.images.numpy(), expected)
    assert splits.train.labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert splits.test.labels.tolist() == [0, 1]
    assert splits.classes[3] == "kind 3"
    assert splits.augmentation == ShiftFlip(padding=4)
    assert splits.mean == (0.4914, 0.4822, 0.4465)
    assert splits.std == (0.2023, 0.1994, 0.2010)


def test_cifar100_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "cifar-100-python", cifar100())
    monkeypatch.setenv("MULFREE_DATA", str(tmp_path))
    shares: list[float] = []
    splits = data.load(DataConfig(name="cifar100"), shares.append)
    assert splits.train.labels.tolist() == [5, 99]
    assert splits.num_classes == 100
    assert shares == [1 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_image_archive(tmp_path: Path, name: str, classes: int) -> None:
    write_tar(tmp_path / f"{name}-images.tar.xz", labelled(classes, each=1), "w:xz")
    splits = data.load(DataConfig(name=name, root=str(tmp_path)))
    assert splits.num_classes == classes
    assert splits.test.labels.tolist() == list(range(classes))
    assert torch.equal(splits.test.images[1], uint8(pixels(classes + 1)))


def test_archive_problems(tmp_path: Path) -> None:
    def load(name: str, files: dict[str, bytes]) -> None:
        data.load(DataConfig(name="cifar10", root=str(write_tar(tmp_path / name, files))))

    with pytest.raises(
        ArtifactError, match=r"a.tar must hold the splits train and test, got train"
    ):
        load("a.tar", labelled(10, each=1, splits=("train",)))
    with pytest.raises(
        ArtifactError, match=r"b.tar must hold images of shape \[3, 32, 32\] for cif"
    ):
        load("b.tar", labelled(10, side=28, each=1))
    with pytest.raises(ArtifactError, match=r"c.tar must hold 10 classes for cifar10, got 9"):
        load("c.tar", labelled(9, each=1))
    with pytest.raises(ArtifactError, match=r"d.tar must hold the file test_batch"):
        load("d.tar", {name: file for name, file in cifar10().items() if name != "test_batch"})
    with pytest.raises(
        ArtifactError, match=r"e.tar: member 'batches.meta' must hold a list of nam"
    ):
        load("e.tar", {**cifar10(), "batches.meta": python2_dict({})})
    with pytest.raises(
        ArtifactError, match=r"f.tar: member 'data_batch_3' must be an intact pickle"
    ):
        load("f.tar", {**cifar10(), "data_batch_3": b"x"})
    with pytest.raises(ArtifactError, match=r"`train` labels must lie in 0..9, got 1..10"):
        load("g.tar", {**cifar10(), "data_batch_3": cifar_batch(cifar_rows(3), [3, 10])})
    with pytest.raises(ArtifactError, match=r"h.tar must hold images as split/class/image"):
        load("h.tar", {"README": b"x"})


@pytest.mark.skipif(not REAL.exists(), reason="MULFREE_DATA holds no cifar10-images.tar.xz")
def test_the_real_one() -> None:
    splits = data.load(DataConfig(name="cifar10", root=str(REAL)))
    assert splits.train.labels.bincount().tolist() == [5000] * 10
    assert splits.test.labels.bincount().tolist() == [1000] * 10
    assert splits.classes[0] == "airplane"
    total = splits.train.images.sum(dim=(0, 2, 3), dtype=torch.int64)
    mean = total.double() / (50000 * 32 * 32 * 255)
    # The images are JPEG-encoded again; the mean of the originals is what the transform takes off.
    torch.testing.assert_close(mean, torch.tensor(splits.mean).double(), rtol=0, atol=2e-4)
