"""Contract of data sets: every listed set, and a toy set with a toy format."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
import torch
from tests.data.files import write_zip
from tests.data.samples import SAMPLES

from mulfree import data
from mulfree.data import DataConfig, DataSplits, Transform, formats, sets
from mulfree.data.config import COMMON_OPTIONS, SET_OPTIONS, SetConfig
from mulfree.data.sets import get_set
from mulfree.errors import ConfigError, DataError

TOY_FORMAT = '''
"""Text files of one image a line: its label, then its pixels."""

import torch
from mulfree.data.samples import ImageSet
from mulfree.errors import ArtifactError

def read_lines(data: bytes, label: str) -> ImageSet:
    try:
        rows = torch.tensor([[int(word) for word in line.split()] for line in data.splitlines()])
        images = rows[:, 1:].to(torch.uint8).view(len(rows), 1, 2, 2)
    except (ValueError, IndexError, RuntimeError) as error:
        raise ArtifactError(f"data.load: {label} must hold five numbers a line") from error
    return ImageSet(images, rows[:, 0])
'''

TOY_SET = '''
"""Toy images in `train.txt` and `test.txt` of a folder or archive."""

from dataclasses import dataclass
from mulfree.data.config import SetConfig
from mulfree.data.containers.archive import iter_files
from mulfree.data.containers.locate import locate
from mulfree.data.formats.toy_lines import read_lines
from mulfree.data.samples import DataSplits

@dataclass(frozen=True, kw_only=True)
class Config(SetConfig):
    classes: int = 2

def load(config, options, progress):
    path = locate(config.name, config.root, names=("toy",), markers=("train.txt",), get="type it")
    parts = {file.name: read_lines(file.data, file.name) for file in iter_files(path)}
    names = tuple(f"kind {label}" for label in range(options.classes))
    return DataSplits(
        train=parts["train.txt"], test=parts["test.txt"], classes=names, image_size=2,
        mean=(0.5,), std=(0.5,),
    )
'''

EVERY = pytest.mark.parametrize("name", [*sets.SETS, "toy"])
FILES = pytest.mark.parametrize(
    "name", [name for name in [*sets.SETS, "toy"] if name not in ("digits", "synthetic")]
)


@pytest.fixture(autouse=True)
def no_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULFREE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MULFREE_DATA", raising=False)
    fashion_mnist = importlib.import_module("mulfree.data.sets.fashion_mnist")
    monkeypatch.setattr(fashion_mnist, "INSTALLED", ())


@pytest.fixture(autouse=True, scope="module")
def toy_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A format and a set of one file each, and one line in the list."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy_lines.py").write_text(TOY_FORMAT)
    (folder / "toy.py").write_text(TOY_SET)
    with pytest.MonkeyPatch.context() as patch:
        for package in (formats, sets):
            patch.setattr(package, "__path__", [*package.__path__, str(folder)])
        patch.setattr(sets, "SETS", (*sets.SETS, "toy"))  # the line
        importlib.invalidate_caches()
        yield
    for name in ("mulfree.data.sets.toy", "mulfree.data.formats.toy_lines"):
        sys.modules.pop(name, None)


def toy(folder: Path) -> DataConfig:
    train = b"".join(b"%d %d 0 255 7\n" % (number % 2, number) for number in range(8))
    path = write_zip(folder / "toy.zip", {"train.txt": train, "test.txt": b"1 2 3 4 5\n"})
    return DataConfig(name="toy", root=str(path))


def sample(name: str, folder: Path) -> DataConfig:
    return {**SAMPLES, "toy": toy}[name](folder)


def transformed(splits: DataSplits, transform: Transform) -> torch.Tensor:
    images = splits.train.images[:2]
    return transform(images, transform.draw(len(images), torch.Generator().manual_seed(0)))


@EVERY
def test_options_are_a_frozen_config(name: str) -> None:
    options = get_set(name).Config()
    assert isinstance(options, SetConfig)
    assert {field.name for field in fields(options)} <= set(SET_OPTIONS)
    for field in fields(options):
        with pytest.raises(FrozenInstanceError):
            setattr(options, field.name, 1)


@EVERY
def test_splits_are_complete_and_the_same_every_time(name: str, tmp_path: Path) -> None:
    config = sample(name, tmp_path)
    shares: list[float] = []
    splits, again = data.load(config, shares.append), data.load(config)
    assert len(splits.train) > 0 < len(splits.test)
    assert splits.num_classes == len(set(splits.classes)) > 1
    assert splits.train.images.shape[1] == splits.test.images.shape[1] == splits.in_channels
    assert len(splits.mean) == len(splits.std) == splits.in_channels
    assert torch.equal(splits.train.images, again.train.images)
    assert torch.equal(splits.test.labels, again.test.labels)
    assert shares == sorted(shares)
    assert all(0 < share <= 1 for share in shares)


@EVERY
def test_transforms_give_images_of_the_stated_size(name: str, tmp_path: Path) -> None:
    splits = data.load(sample(name, tmp_path))
    for transform in (splits.train_transform, splits.test_transform):
        images = transformed(splits, transform)
        assert images.shape == (2, splits.in_channels, splits.image_size, splits.image_size)
        assert images.dtype == torch.float32
        assert images.isfinite().all()


@EVERY
def test_common_options_apply(name: str, tmp_path: Path) -> None:
    config = sample(name, tmp_path)
    whole = data.load(config)
    plain = data.load(replace(config, augment="none", validation=0.5, limit=2))
    assert plain.train_transform == plain.test_transform
    assert len(plain.train) == 2
    assert plain.validation is not None
    assert 2 <= len(plain.validation) < len(whole.train)


@EVERY
def test_options_of_other_sets_are_refused(name: str, tmp_path: Path) -> None:
    own = {field.name for field in fields(get_set(name).Config)}
    for option in set(SET_OPTIONS) - set(COMMON_OPTIONS) - own:
        config = replace(sample(name, tmp_path), **{option: 9})  # type: ignore[arg-type]
        with pytest.raises(
            ConfigError, match=f"^data.load: `{option}` must not be given for {name}, got 9$"
        ):
            data.load(config)


@FILES
def test_a_missing_set_is_one_line(name: str, tmp_path: Path) -> None:
    for root in (None, str(tmp_path / "nowhere")):
        with pytest.raises(DataError, match=f"^data.load: no {name} found in .*: looked for .*; "):
            data.load(DataConfig(name=name, root=root))


def test_every_set_has_a_sample_and_the_toy_is_listed() -> None:
    assert SAMPLES.keys() | {"toy"} == set(sets.SETS)
    with pytest.raises(ConfigError, match=r"^data.load: `name` must be one of cifar10, .* 'cifar'"):
        data.load(DataConfig(name="cifar"))


def test_the_toy_format_reads_its_values(tmp_path: Path) -> None:
    splits = data.load(toy(tmp_path))
    assert splits.train.labels.tolist() == [0, 1] * 4
    assert splits.train.images[5].flatten().tolist() == [5, 0, 255, 7]
    assert splits.classes == ("kind 0", "kind 1")
    assert len(data.load(replace(toy(tmp_path), classes=3)).classes) == 3
