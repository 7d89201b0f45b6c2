from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.command import refused, shown
from tests.training.runs import make_config

from mulfree import inspection, models
from mulfree.training import load_model, train

WIDTH = 0.25


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of an adder network with two features."""
    directory = tmp_path_factory.mktemp("run")
    train(make_config(directory, model={"options": {"width": WIDTH, "embedding": 2}}))
    return directory


@pytest.fixture
def cnn(tmp_path: Path) -> str:
    """A file of a convolutional network without an embedding."""
    path = tmp_path / "cnn.safetensors"
    models.save_weights(models.create_model("lenet5_bn", width=WIDTH, num_classes=3), path)
    return str(path)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_weights(run: Path, cnn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "weights.png"
    words = ("inspect", "weights", cnn, run, "-o", output)
    out = shown(capsys, *words)
    assert f"{cnn}: lenet5_bn conv2d\n" in out
    assert f"{run}: lenet5_bn adder2d\n" in out
    assert out.endswith(f"{output}: the last row of each table\n")
    found = inspection.inspect_weights(load_model(run), "adder2d")
    fit = found.layers["embedding.0"].fit
    row = next(line for line in out.splitlines() if line.startswith("| embedding.0 "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == [
        fit.better.capitalize(),
        f"{abs(fit.difference):.4f}",
        f"{fit.gaussian:.4f}",
    ]
    assert cells[-1] == str(fit.count)
    width, height = size(output)
    one, two = json.loads(shown(capsys, *words, "--layers", "--json"))
    assert (one["network"], one["kind"]) == (cnn, "lenet5_bn conv2d")
    assert list(one["layers"]) == ["conv2", "conv3", "conv4"]
    assert list(two["layers"]) == ["conv2", "conv3", "conv4", "embedding.0"]
    pooled = found.pooled.fit
    assert two["pooled"]["difference"] == pooled.difference
    assert two["pooled"]["better"] == pooled.better
    assert two["layers"]["embedding.0"]["laplace"] == fit.laplace
    assert size(output) == (width, 5 * height)


def test_features(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "features.png"
    accuracy = json.loads((run / "metrics.json").read_text())["test_accuracy"]
    checkpoint = str(run / "last.ckpt")
    words = ("inspect", "features", run, checkpoint, "-o", output, "--threads=1")
    out = shown(capsys, *words)
    assert out.splitlines()[:2] == [
        f"{path}: lenet5_bn adder2d, accuracy {accuracy:.2%}" for path in (run, checkpoint)
    ]
    assert "test images of synthetic" in out
    width, _ = size(output)
    one, two = json.loads(shown(capsys, *words, "--json", "--data.eval_batch_size=7"))
    assert (one["network"], two["network"]) == (str(run), checkpoint)
    assert one["accuracy"] == two["accuracy"] == pytest.approx(accuracy)
    assert width == 2 * 4.5 * 120


def test_mistakes_are_one_line(
    run: Path, cnn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, other = tmp_path / "kept.safetensors", tmp_path / "other"
    models.save_weights(models.create_model("lenet5_bn", operator="adder2d", keep=["*"]), kept)
    other.mkdir()
    for name in ("model.safetensors", "config.yaml"):
        text = (run / name).read_bytes()
        (other / name).write_bytes(text.replace(b"name: synthetic", b"name: digits"))
    output = ("-o", tmp_path / "x.png")
    for words, line in (
        (("wieghts", cnn), "must be one of features, weights, got 'wieghts'; did you mean 'weigh"),
        (("weights", cnn, "-ox.pdf"), "`--output` must end in .png, got x.pdf"),
        (("weights", "no.safetensors", *output), "must be a readable safetensors file"),
        (("weights", kept, *output), f"got a LeNet5BN without ({kept})"),
        (
            ("features", run, cnn, "--data.name=synthetic", *output),
            f"embedding=2, got 21 ({cnn})",
        ),
        (
            ("features", run, "--data.name=digits", *output),
            "num_classes 3 as the network has it, got digits with 10",
        ),
        (
            ("features", run, other, *output),
            "`NET` must be networks of one data set, got digits and synthetic",
        ),
        ((), "the following arguments are required: PLOT"),
    ):
        assert line in refused(capsys, "inspect", *words)
    path = tmp_path / "no" / "x.png"
    line = refused(capsys, "inspect", "weights", run, "-o", path, status=1)
    assert line == f"No such file or directory: {path}\n"
    assert not output[1].exists()
