from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.command import refused, shown
from torch import Tensor

from mulfree import models, runtime
from mulfree.nodes.conv2d import Conv2d


def state_of(classes: int) -> dict[str, Tensor]:
    """A small network with the names of torchvision's classifier."""
    model = models.create_model("resnet18", width=1 / 16, num_classes=classes).eval()
    state = model.state_dict()
    state["fc.weight"] = state["fc.weight"].flatten(1)
    return dict(state)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(state_of(1000), tmp_path / "net.pth")
    return tmp_path / "net.pth"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, suffix in enumerate((".png", ".JPG")):
        colour = (40 * number, 100, 200)
        Image.new("RGB", (300, 280), colour).save(folder / f"{number}{suffix}")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_published_weights(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.mulfree"
    words = [weights, "--model=resnet18", "--pictures", pictures, "-o", file, "--bits", "8", "4"]
    *agreements, last = shown(capsys, "quantize", *words).splitlines()
    for bits, line in zip((8, 4), agreements, strict=True):
        pattern = rf"{bits} bits  the class of the float network on [012] of 2 pictures"
        assert re.fullmatch(pattern, line)
    assert re.fullmatch(rf"{re.escape(str(file))}: \d+ kB, 8 bits", last)
    graph = runtime.load(file)
    levels = [int(np.abs(node.weight).max()) for node in graph.nodes if isinstance(node, Conv2d)]
    # Four bits have weights up to 7 or 8.
    assert min(levels) > 8
    assert graph.name == "resnet18 conv2d"
    assert graph.input.resize == 256
    assert graph.classes is not None
    assert len(graph.classes) == 1000


def without_pictures(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def damaged(folder: Path) -> None:
    (folder / "0.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_pictures, r"`--pictures` must be a folder of .bmp, .*, got '.*pictures'"),
        (damaged, r"quantize: .*0\.png must be an intact JPEG"),
    ],
)
def test_pictures_that_are_refused(
    change: Callable[[Path], None],
    message: str,
    weights: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(pictures)
    file = tmp_path / "net.mulfree"
    words = [weights, "--model=resnet18", "--pictures", pictures, "-o", file]
    assert re.search(message, refused(capsys, "quantize", *words))
    assert not file.exists()


def test_mistakes(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*words: object) -> str:
        return refused(capsys, "quantize", *words, "-o", tmp_path / "net.mulfree")

    assert "`--pictures` must be given with --model" in line(weights, "--model=resnet18")
    missing = line(weights, "--model=resnet18", "--pictures", tmp_path / "no")
    assert "`--pictures` must be a readable folder" in missing
    other = line(weights, "--model=resnet19", "--pictures", pictures)
    assert "`name` must be one of" in other
    torch.save(state_of(10), weights)
    few = line(weights, "--model=resnet18", "--pictures", pictures)
    assert "must be weights for ImageNet" in few
    assert "got 10 classes" in few
