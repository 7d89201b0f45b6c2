from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.files import fashion_mnist as idx_files
from tests.data.files import idx, write_folder

from mulfree import data
from mulfree.data import DataConfig
from mulfree.data.sets import fashion_mnist
from mulfree.errors import ArtifactError, DataError


@pytest.mark.parametrize("place", ["", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize(("ending", "dash"), [("", "-"), (".gz", "-"), ("", ".")])
def test_values(tmp_path: Path, place: str, ending: str, dash: str) -> None:
    made = idx_files(ending=ending, dash=dash)
    write_folder(tmp_path / place, made)
    splits = data.load(DataConfig(name="fashion_mnist", root=str(tmp_path)))
    raw = made[f"train-images{dash}idx3-ubyte{ending}"]
    raw = gzip.decompress(raw) if ending else raw
    assert splits.train.images.shape == (5, 1, 28, 28)
    assert bytes(splits.train.images.numpy().tobytes()) == raw[16:]
    assert splits.test.labels.tolist() == [0, 1, 2]
    assert (splits.num_classes, splits.image_size) == (10, 28)


def test_root_may_be_one_of_the_files(tmp_path: Path) -> None:
    write_folder(tmp_path, idx_files())
    root = str(tmp_path / "train-images-idx3-ubyte")
    assert len(data.load(DataConfig(name="fashion_mnist", root=root)).train) == 5


def test_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "usr", idx_files())
    monkeypatch.setattr(fashion_mnist, "INSTALLED", (tmp_path / "usr",))
    monkeypatch.setenv("MULFREE_DATA", str(tmp_path / "nothing"))
    assert len(data.load(DataConfig(name="fashion_mnist")).train) == 5
    with pytest.raises(DataError, match=r"no fashion_mnist found in .*other \(which does not exis"):
        data.load(DataConfig(name="fashion_mnist", root=str(tmp_path / "other")))


def test_missing_part(tmp_path: Path) -> None:
    write_folder(tmp_path, idx_files())
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz"):
        data.load(DataConfig(name="fashion_mnist", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("labels-idx1", np.zeros(4), "must hold one label for each of the 5 images in .*, got 4"),
        ("images-idx3", np.zeros((5, 8, 8)), r"must have shape \[N, 28, 28\], got \[5, 8, 8\]"),
        ("labels-idx1", np.full(5, 10), "`train` labels must lie in 0..9, got 10..10"),
    ],
)
def test_rejects(tmp_path: Path, name: str, array: np.ndarray, message: str) -> None:
    write_folder(tmp_path, {**idx_files(), f"train-{name}-ubyte": idx(array.astype(np.uint8))})
    with pytest.raises(ArtifactError, match=message):
        data.load(DataConfig(name="fashion_mnist", root=str(tmp_path)))


@pytest.mark.skipif(
    not fashion_mnist.INSTALLED[0].exists(), reason="dataset-fashion-mnist is not installed"
)
def test_the_real_one() -> None:
    splits = data.load(DataConfig(name="fashion_mnist"))
    assert splits.train.labels.bincount().tolist() == [6000] * 10
    assert splits.test.labels.bincount().tolist() == [1000] * 10
    assert splits.classes[int(splits.train.labels[0])] == "ankle boot"
    scaled = splits.train.images.double() / 255
    torch.testing.assert_close(
        scaled.mean(), torch.tensor(splits.mean[0]).double(), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(
        scaled.std(), torch.tensor(splits.std[0]).double(), rtol=0, atol=1e-4
    )
