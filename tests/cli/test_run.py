from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.command import refused, shown
from tests.runtime.graphs import tiny, tiny_parts

from mulfree.runtime import Graph, save

# What 0..8 as pixels give, by hand in tests/runtime: logits 33 and -89.
PIXELS = np.arange(9, dtype=np.uint8).reshape(3, 3)


@pytest.fixture
def network(tmp_path: Path) -> str:
    save(tiny(), tmp_path / "tiny.mulfree")
    return str(tmp_path / "tiny.mulfree")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.fromarray(PIXELS).save(tmp_path / "0to8.png")
    return str(tmp_path / "0to8.png")


def test_class_and_probability(
    network: str, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, "run", network, picture) == f"{picture}  cat 100.0%\n"


def test_several_pictures_and_classes(
    network: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "x.png"
    Image.fromarray(np.full((5, 4), 255, np.uint8)).save(short)
    words = (network, picture, *[short] * 40, "--top=2", "--threads=1")
    lines = shown(capsys, "run", *words).splitlines()
    assert lines[0] == f"{picture}  cat 100.0%, dog 0.0%"
    # (100 - 4 * 254 + 1) >> 1 < 0 and (3 * (1020 - 12) + 1) >> 1 > 255: 0 and 255 in all places;
    # logits 255 and -1.
    assert len(lines) == 41
    assert set(lines[1:]) == {f"{str(short).ljust(len(picture))}  cat 100.0%, dog 0.0%"}


def test_probabilities_are_those_of_the_logits(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tiny_parts()
    *nodes, fc = parts["nodes"]
    fc = replace(
        fc, scale=np.zeros(2, np.float32), bias=np.log(np.array([1, 3])).astype(np.float32)
    )
    parts |= {"nodes": (*nodes, fc), "classes": None}
    save(Graph(**parts), tmp_path / "even")
    found = json.loads(shown(capsys, "run", tmp_path / "even", picture, "--top=9", "--json"))
    assert found["image"] == picture
    assert [entry["class"] for entry in found["classes"]] == ["1", "0"]
    chances = [entry["probability"] for entry in found["classes"]]
    assert chances == pytest.approx([0.75, 0.25])


def test_infinite_logits(picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = tiny_parts()
    *nodes, fc = parts["nodes"]
    fc = replace(fc, scale=np.full(2, 3e38, np.float32))
    save(Graph(**parts | {"nodes": (*nodes, fc)}), tmp_path / "large")
    out = shown(capsys, "run", tmp_path / "large", picture, "--top=2")
    assert out.endswith("  cat 100.0%, dog 0.0%\n")


def test_mistakes_are_one_line(
    network: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, damaged, pipe, link = (
        str(tmp_path / name) for name in ("missing", "damaged", "pipe", "link")
    )
    Path(damaged).write_bytes(Path(network).read_bytes()[:-1])
    os.mkfifo(pipe)
    Path(link).symlink_to("/dev/zero")
    for words, line in (
        ((missing, picture), "`path` must be a file with content, got"),
        ((damaged, picture), "must have aligned data_offsets within 307 bytes"),
        ((picture, picture), "have a header of at most"),
        ((network, missing), "must be a readable file, got"),
        ((network, network), "must be an intact JPEG"),
        ((network, pipe), "(Not a regular file)"),
        ((network, link), "(Not a regular file)"),
        ((network, "/dev/zero"), "(Not a regular file)"),
        ((network, tmp_path), "(Is a directory)"),
        ((network,), "the following arguments are required: IMAGE"),
        ((network, picture, "--thread=1"), "did you mean --threads"),
    ):
        assert line in refused(capsys, "run", *words)


def test_deep_and_turned_pictures(
    network: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep, turned = str(tmp_path / "deep.png"), str(tmp_path / "turned.png")
    Image.fromarray(PIXELS.astype(np.uint16) << 8).save(deep)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(PIXELS[::-1, ::-1]).save(turned, exif=exif)
    out = shown(capsys, "run", network, picture, deep, turned, "--json", "--top=2")
    found = [json.loads(line)["classes"] for line in out.splitlines()]
    assert found[0] == found[1] == found[2]


def test_names_of_files_do_not_reach_the_terminal_raw(
    network: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = tmp_path / os.fsdecode(b"\x1b]0;owned\x07\xff.png")
    name.write_bytes(Path(picture).read_bytes())
    first, second = shown(capsys, "run", network, picture, name).splitlines()
    assert second == rf"{tmp_path}/\x1b]0;owned\x07\udcff.png  cat 100.0%"
    assert len(first) == len(second)


def test_torch_is_not_loaded(network: str, picture: str) -> None:
    code = (
        "import sys; from mulfree.cli.main import main\n"
        f"status = main(['run', {network!r}, {picture!r}])\n"
        "heavy = {'torch', 'lightning', 'safetensors', 'rich', 'kornia'}\n"
        "print(sorted(heavy & set(sys.modules)), status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{picture}  cat 100.0%\n[] 0\n"
