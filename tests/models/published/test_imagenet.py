"""Images and class names of ImageNet."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from mulfree.models.published import imagenet


class Installed:
    """A distribution of files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / path


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder in the place of the installed packages, empty at first."""

    def distribution(name: str) -> Installed:
        if not (tmp_path / name).exists():
            raise importlib.metadata.PackageNotFoundError(name)
        return Installed(tmp_path)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    return tmp_path


def torchvision(folder: Path, text: str) -> None:
    (folder / "torchvision/models").mkdir(parents=True)
    (folder / "torchvision/models/_meta.py").write_text(text)


def timm(folder: Path, classes: int = 1000) -> None:
    (folder / "timm/data/_info").mkdir(parents=True)
    synsets = [f"n{number:08}" for number in range(classes)]
    lemmas = "".join(f"{synset}\tname {synset}, other\n" for synset in reversed(synsets))
    (folder / "timm/data/_info/imagenet_synsets.txt").write_text("\n".join(synsets))
    (folder / "timm/data/_info/imagenet_synset_to_lemma.txt").write_text(lemmas)


def test_numbers_without_a_package(packages: Path) -> None:
    assert imagenet.class_names() == tuple(map(str, range(1000)))


def test_names_of_torchvision_first(packages: Path) -> None:
    timm(packages)
    names = [f"class {number}" for number in range(1000)]
    torchvision(packages, f"import os\nX = 1\n_IMAGENET_CATEGORIES = {names!r}\n")
    assert imagenet.class_names() == tuple(names)


def test_names_of_timm_in_the_order_of_its_synsets(packages: Path) -> None:
    timm(packages)
    names = imagenet.class_names()
    assert (names[0], names[999]) == ("name n00000000", "name n00000999")


@pytest.mark.parametrize(
    "text",
    [
        "_IMAGENET_CATEGORIES = [",
        "_IMAGENET_CATEGORIES = [1] * 1000",
        "_IMAGENET_CATEGORIES = ['a']",
        "_IMAGENET_CATEGORIES = {}",
        "_IMAGENET_CATEGORIES = " + repr([1] * 1000),
        "other = 1",
        "(" * 100_000,
        "\0",
    ],
)
def test_files_of_another_form(text: str, packages: Path) -> None:
    torchvision(packages, text)
    timm(packages, classes=999)
    assert imagenet.class_names() == tuple(map(str, range(1000)))


def test_a_package_without_the_files(packages: Path) -> None:
    (packages / "timm").mkdir()
    (packages / "torchvision").mkdir()
    assert imagenet.class_names()[7] == "7"


def test_images_of_each_code() -> None:
    lite = imagenet.image_spec("lukemelas", "efficientnet_lite1", 240)
    assert (lite.size, lite.resize, lite.data) == ((3, 240, 240), 272, "imagenet")
    assert lite.mean == pytest.approx([0.498039] * 3, abs=1e-6)
    assert lite.std == pytest.approx([0.501961] * 3, abs=1e-6)
    plain = imagenet.image_spec("torchvision", "efficientnet_b4", 380)
    assert (plain.mean, plain.std, plain.resize) == (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        384,
    )
    assert imagenet.image_spec("torchvision", "mobilenet_v2", 224).resize == 256
    assert imagenet.image_spec("timm", "tf_efficientnet_lite0", 224).mean == (0.5,) * 3
    assert imagenet.image_spec("timm", "tf_efficientnet_b4", 380).resize == 412
