from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.training.runs import make_config

from mulfree import inspection, models
from mulfree.cli.main import main
from mulfree.training import load_model, train

WIDTH = 0.25


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of an adder network with two features."""
    directory = tmp_path_factory.mktemp("run")
    options = {"width": WIDTH, "embedding": 2}
    train(make_config(directory, model={"options": options}))
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
    words = ["inspect", "weights", cnn, str(run), "-o", str(output)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
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
    assert main([*words, "--layers", "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)
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
    words = ["inspect", "features", str(run), checkpoint, "-o", str(output), "--threads=1"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[:2] == [
        f"{path}: lenet5_bn adder2d, accuracy {accuracy:.2%}" for path in (run, checkpoint)
    ]
    assert "test images of synthetic" in out
    width, _ = size(output)
    assert main([*words, "--json", "--data.eval_batch_size=7"]) == 0
    one, two = json.loads(capsys.readouterr().out)
    assert (one["network"], two["network"]) == (str(run), checkpoint)
    assert one["accuracy"] == two["accuracy"] == pytest.approx(accuracy)
    assert width == 2 * 4.5 * 120


def failure(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["inspect", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mulfree inspect: error: ")
    assert err.count("\n") == 1
    return err


def test_mistakes_are_one_line(
    run: Path, cnn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["-o", str(tmp_path / "x.png")]
    assert "must be one of features, weights, got 'wieghts'; did you mean 'weights'?" in failure(
        ["wieghts", cnn, *output], capsys
    )
    assert "the following arguments are required: PLOT" in failure([], capsys)
    assert "`--output` must end in .png, got x.pdf" in failure(["weights", cnn, "-ox.pdf"], capsys)
    assert "must be a readable safetensors file" in failure(
        ["weights", str(tmp_path / "no.safetensors"), *output], capsys
    )
    named = ["--data.name=synthetic", *output]
    assert f"embedding=2, got 21 ({cnn})" in failure(["features", str(run), cnn, *named], capsys)
    assert "`--data.name` must be given" in failure(["features", cnn, *output], capsys)
    assert "num_classes 3 as the network has it, got digits with 10" in failure(
        ["features", str(run), "--data.name=digits", *output], capsys
    )
    kept = tmp_path / "kept.safetensors"
    models.save_weights(models.create_model("lenet5_bn", operator="adder2d", keep=["*"]), kept)
    assert f"got a LeNet5BN without ({kept})" in failure(["weights", str(kept), *output], capsys)
    assert not (tmp_path / "x.png").exists()


def test_networks_of_two_data_sets(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("model.safetensors", "config.yaml"):
        text = (run / name).read_bytes()
        (other / name).write_bytes(text.replace(b"name: synthetic", b"name: digits"))
    line = failure(["features", str(run), str(other), "-o", str(tmp_path / "x.png")], capsys)
    assert "`NET` must be networks of one data set, got digits and synthetic" in line


def test_a_folder_that_is_not_there(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "no" / "x.png"
    assert main(["inspect", "weights", str(run), "-o", str(path)]) == 1
    assert capsys.readouterr().err == (
        f"mulfree inspect: error: No such file or directory: {path}\n"
    )
