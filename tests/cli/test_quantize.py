from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from tests.training.runs import make_config

from mulfree import data, runtime
from mulfree.cli.main import main
from mulfree.data.samples import ImageSet
from mulfree.data.transforms import CentreCrop
from mulfree.nodes.adder2d import Adder2d
from mulfree.nodes.conv2d import Conv2d
from mulfree.training import train
from mulfree.training.run.network import image_spec


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    directory = tmp_path_factory.mktemp("run")
    train(make_config(directory))
    return directory


@pytest.fixture(scope="module")
def qat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was trained with 5 bits."""
    directory = tmp_path_factory.mktemp("qat")
    train(make_config(directory, method={"name": "qat", "bits": 5}))
    return directory


def quantized(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that the verb prints."""
    assert main(["quantize", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_accuracy_before_and_after(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.mulfree"
    before, *after, last = quantized([str(run), "-o", str(file), "--images=40"], capsys)
    assert main(["evaluate", str(run)]) == 0
    accuracy = capsys.readouterr().out.split()[1]
    assert re.fullmatch(rf"float +{accuracy}  \(\d+ test images\)", before)
    for bits, line in zip((8, 6, 5, 4), after, strict=True):
        found = re.fullmatch(rf"{bits} bits +([\d.]+)%  \(([+-][\d.]+) points\)", line)
        assert found
        exact = float(accuracy.removesuffix("%"))
        assert float(found[1]) - exact == pytest.approx(float(found[2]), abs=0.011)
    assert re.fullmatch(rf"{re.escape(str(file))}: \d+ kB, 8 bits", last)


def test_the_file_is_that_of_the_first_number_of_bits(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.mulfree"
    words = [str(run / "last.ckpt"), "-o", str(file), "--bits", "4", "8", "--images=1"]
    _, four, eight, last = quantized([*words, "--threads=1"], capsys)
    assert four.startswith("4 bits")
    assert eight.startswith("8 bits")
    assert last.endswith("4 bits")
    graph = runtime.load(file)
    assert graph.name == "lenet5_bn adder2d"
    (first,) = (node for node in graph.nodes if isinstance(node, Conv2d))
    assert first.clamp_max == 15
    splits = data.load(make_config().data)
    assert graph.classes == splits.classes
    assert (graph.input.mean, graph.input.std) == (splits.mean, splits.std)
    assert graph.input.resize == 8
    # What was printed is what the file does.
    images, labels = splits.test.images.numpy(), splits.test.labels.numpy()
    classes = runtime.Session(file).run(images).argmax(1)
    assert f"{(classes == labels).mean():.2%}" in four


def test_ranges_of_training_are_used(
    qat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for index, (name, count) in enumerate((("", 1), ("last.ckpt", 40), ("model.safetensors", 9))):
        file = tmp_path / f"{index}.mulfree"
        words = [str(qat / name), "-o", str(file), f"--images={count}"]
        # The bits are those of the training, too.
        _, line, last = quantized(words, capsys)
        assert last.endswith("5 bits")
        lines.append(line)
    # The images make no difference.
    assert lines[0] == lines[1] == lines[2]
    files = [(tmp_path / f"{index}.mulfree").read_bytes() for index in range(3)]
    assert files[0] == files[1] == files[2]


def test_pictures_are_resized_as_the_test_images_were() -> None:
    images = ImageSet(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 1]))
    splits = data.DataSplits(
        train=images,
        test=images,
        classes=("a", "b"),
        image_size=14,
        mean=(0.5, 0.5, 0.5),
        std=(1.0, 1.0, 1.0),
        evaluation=CentreCrop(size=14),
    )
    spec = image_spec("pets", splits)
    assert (spec.size, spec.resize, spec.data) == ((3, 14, 14), 16, "pets")
    assert spec.classes == ("a", "b")


def test_shifts_and_observers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [str(run), "-o", str(tmp_path / "net.mulfree"), "--bits=8"]
    quantized([*base, "--power-of-two-scales", "--observer=minmax"], capsys)
    graph = runtime.load(tmp_path / "net.mulfree")
    layers = [node for node in graph.nodes if isinstance(node, Adder2d | Conv2d)]
    assert len(layers) == 4
    factors = [abs(int(factor)) for node in layers for factor in node.multiplier]
    assert all(factor.bit_count() <= 1 for factor in factors)


def failure(words: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["quantize", *words]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mulfree quantize: error: ")
    assert err.count("\n") == 1
    return err


def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["-o", str(tmp_path / "net.mulfree")]
    assert "required: -o/--output" in failure([str(run)], 2, capsys)
    assert "No such file or directory" in failure([str(run), "-o", "/no/such/x"], 1, capsys)
    assert "invalid choice: 7" in failure([str(run), *output, "--bits=7"], 2, capsys)
    missing = failure([str(tmp_path / "x.ckpt"), *output], 2, capsys)
    assert "must be an existing file" in missing
    alone = tmp_path / "alone.safetensors"
    shutil.copy(run / "model.safetensors", alone)
    unnamed = failure([str(alone), *output], 2, capsys)
    assert "quantize: `--data.name` must be given, as there is no config.yaml" in unnamed
    wrong = failure([str(run), *output, "--data.name=digits"], 2, capsys)
    assert (
        "quantize: `--data.name` must be a data set with num_classes 3 as the network has it, "
        "got digits with 10" in wrong
    )
    assert not (tmp_path / "net.mulfree").exists()


def test_data_can_be_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "alone.safetensors"
    shutil.copy(run / "model.safetensors", alone)
    config = run / "config.yaml"
    words = [str(alone), "-o", str(tmp_path / "net.mulfree"), "--bits=8"]
    shutil.copy(config, tmp_path / "config.yaml")
    assert len(quantized([*words, "--data.eval_batch_size=7"], capsys)) == 3
