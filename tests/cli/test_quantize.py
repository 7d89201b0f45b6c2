from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.command import refused, shown
from tests.training.runs import make_config

from mulfree import data, runtime
from mulfree.cli.kinds import plain
from mulfree.data.samples import ImageSet
from mulfree.data.transforms import CentreCrop
from mulfree.nodes.adder2d import Adder2d
from mulfree.nodes.conv2d import Conv2d
from mulfree.quantization import quantize
from mulfree.training import train
from mulfree.training.run.network import image_spec


def quantized(capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    """The lines that the command prints."""
    return shown(capsys, "quantize", *words).splitlines()


def test_accuracy_before_and_after(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.mulfree"
    before, *after, last = quantized(capsys, run, "-o", file, "--images=40")
    accuracy = shown(capsys, "evaluate", run).split()[1]
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
    words = [run / "last.ckpt", "-o", file, "--bits", 4, 8, "--images=1", "--threads=1"]
    _, four, eight, last = quantized(capsys, *words)
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


def test_ranges_of_training_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qat = tmp_path / "run"
    train(make_config(qat, method={"name": "qat", "bits": 5}))
    results = set()
    for name, count in (("", 1), ("last.ckpt", 40), ("model.safetensors", 9)):
        file = tmp_path / "net.mulfree"
        # The bits are those of the training, too; the images make no difference.
        _, line, last = quantized(capsys, qat / name, "-o", file, f"--images={count}")
        assert last.endswith("5 bits")
        results.add((line, file.read_bytes()))
    assert len(results) == 1


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
    file = tmp_path / "net.mulfree"
    quantized(capsys, run, "-o", file, "--bits=8", "--power-of-two-scales", "--observer=minmax")
    layers = [node for node in runtime.load(file).nodes if isinstance(node, Adder2d | Conv2d)]
    assert len(layers) == 4
    factors = [abs(int(factor)) for node in layers for factor in node.multiplier]
    assert all(factor.bit_count() <= 1 for factor in factors)


def test_channels_are_equalised_if_wanted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = []

    def recorded(*arguments: Any, **given: Any) -> runtime.Graph:
        options.append(given["equalize"])
        return quantize(*arguments, **given)

    monkeypatch.setattr(plain, "quantize", recorded)
    words = [run, "-o", tmp_path / "net.mulfree", "--bits=8", "--images=8"]
    for added in ([], ["--equalize"]):
        quantized(capsys, *words, *added)
    assert options == [False, True]


def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("-o", tmp_path / "net.mulfree")
    assert "required: -o/--output" in refused(capsys, "quantize", run)
    line = refused(capsys, "quantize", run, "-o", "/no/such/x", status=1)
    assert "No such file or directory" in line
    assert "invalid choice: 7" in refused(capsys, "quantize", run, *output, "--bits=7")
    assert not output[1].exists()


def test_the_configuration_beside_a_file_names_its_data(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.safetensors", "config.yaml"):
        shutil.copy(run / name, tmp_path)
    words = (tmp_path / "model.safetensors", "-o", tmp_path / "net", "--bits=8")
    assert len(quantized(capsys, *words, "--data.eval_batch_size=7")) == 3
