from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.command import refused, shown
from tests.runtime.graphs import network
from tests.training.runs import assert_same, make_config
from torch import nn

from mulfree import data, models, runtime
from mulfree.cli.main import main
from mulfree.errors import DataError
from mulfree.training import load_model, train

onnx = pytest.importorskip("onnx", reason="needs mulfree[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs mulfree[onnx]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run on images of 8x8 pixels."""
    directory = tmp_path_factory.mktemp("run")
    train(make_config(directory, data={"image_size": None, "classes": None, "name": "digits"}))
    return directory


def logits(file: Path, **given: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, given)[0]
    return result


def test_the_network_of_a_run_reads_the_images_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="needs mulfree[onnx]")
    output = tmp_path / "x.onnx"
    out = shown(capsys, "export", run, "-o", output)
    assert ": images float32[batch, 1, 8, 8] -> logits float32[batch, 10]" in out
    splits = data.load(data.DataConfig(name="digits"))
    test, count = splits.test, len(splits.test)
    loader = data.BatchLoader(test, count, train=False, transform=splits.test_transform)
    images, _ = next(iter(loader))
    # The accuracy of the run, image for image.
    with torch.no_grad():
        expected = load_model(run)(images)
    assert (
        logits(output, images=images.numpy()).argmax(1) == expected.argmax(1).numpy()
    ).mean() > 0.999
    facts = {entry.key: json.loads(entry.value) for entry in onnx.load(output).metadata_props}
    assert facts == {
        "mean": list(splits.mean),
        "std": list(splits.std),
        "resize": 8,
        "classes": list(splits.classes),
    }


@pytest.mark.parametrize("name", ["", "last.ckpt", "model.safetensors"])
def test_every_file_of_a_run_is_the_network_of_the_run(
    name: str, run: Path, tmp_path: Path, exported: list[nn.Module]
) -> None:
    assert main(["export", str(run / name), "-o", str(tmp_path / "x.onnx")]) == 0
    (network,) = exported
    assert models.input_size(network) == (1, 8, 8)
    assert_same(network.state_dict(), load_model(run).state_dict())


def without_a_record(run: Path, target: Path) -> Path:
    """A run as versions wrote it that did not record the images."""
    shutil.copytree(run, target)
    for name in ("last.ckpt", "best.ckpt"):
        content = torch.load(target / name, weights_only=True)
        del content["mulfree"]["recipe"]["images"]
        content.pop("sha256", None)
        torch.save(content, target / name)
    network = load_model(run)
    recipe = models.config_of(network)
    plain = models.create_model(recipe.name, **recipe.arguments)
    plain.load_state_dict(network.state_dict())
    models.save_weights(plain, target / "model.safetensors")
    return target


@pytest.mark.slow
def test_a_run_without_a_record_of_its_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="needs mulfree[onnx]")
    old, output = without_a_record(run, tmp_path / "old"), tmp_path / "x.onnx"
    for name in ("", "last.ckpt"):
        out = shown(capsys, "export", old / name, "-o", output)
        assert ": images float32[batch, 1, 8, 8] -> " in out
    facts = {entry.key for entry in onnx.load(output).metadata_props}
    assert facts == {"mean", "std", "resize", "classes"}

    def gone(_: object) -> None:
        raise DataError("data.load: no such data")

    monkeypatch.setattr(data, "load", gone)
    assert main(["export", str(old), "-o", str(output)]) == 0
    captured = capsys.readouterr()
    assert ": images float32[batch, 1, 28, 28] -> " in captured.out
    assert captured.err == (
        "mulfree export: warning: the image size is taken to be (1, 28, 28), as the data of the "
        "run cannot be read: data.load: no such data\n"
    )
    # Not needed where the size is given.
    out = shown(capsys, "export", old, "-o", output, "--input-size", "1,8,8")
    assert ": images float32[batch, 1, 8, 8] -> " in out


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    runtime.save(network(), tmp_path / "network.artifact")
    return tmp_path / "network.artifact"


@pytest.mark.parametrize("name", ["network.artifact", "network.safetensors"])
def test_an_artifact(
    name: str, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = artifact.rename(tmp_path / name), tmp_path / "network.onnx"
    out = shown(capsys, "export", source, "-o", output)
    size = f"{output.stat().st_size / 1e6:.2f} MB"
    assert out == f"{output}: pixels uint8[batch, 3, 16, 16] -> logits float32[batch, 10], {size}\n"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), np.uint8)
    expected = runtime.Session(source).run(pixels)
    np.testing.assert_array_equal(logits(output, pixels=pixels), expected)
    out = shown(capsys, "export", source, "-o", output, "--input", "images")
    assert ": images float32[batch, 3, 16, 16] -> " in out
    # A device has no size.
    out = shown(capsys, "export", source, "-o", "/dev/null", "--to", "onnx")
    assert out == "/dev/null: pixels uint8[batch, 3, 16, 16] -> logits float32[batch, 10]\n"


def test_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript", reason="needs mulfree[onnx]")
    model = models.create_model("lenet5_bn", num_classes=4, width=0.25)
    models.save_weights(model, tmp_path / "model.safetensors")
    source = tmp_path / "model.safetensors"
    words = (source, "-o", tmp_path / "model.onnx", "--input-size", "3,32,32")
    out = shown(capsys, "export", *words)
    assert ": images float32[batch, 3, 32, 32] -> logits float32[batch, 4]" in out


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["{artifact}"], 2, "the following arguments are required: -o/--output"),
        (["{artifact}", "-o", "/no/x.onnx"], 1, "No such file or directory: /no/x.onnx"),
        (["missing.artifact", "-o", "{output}"], 2, "runtime.load: `path` must "),
        (["missing.safetensors", "-o", "{output}"], 2, "load_model: `path` must "),
        (["{pipe}.safetensors", "-o", "{output}"], 2, "load_model: `path` must be a read"),
        (
            ["{artifact}", "-o", "{output}", "--input-size", "3,4,4"],
            2,
            "to_onnx: `input_size` must be left out with a quantised graph, got (3, 4, 4)",
        ),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    status: int,
    line: str,
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    paths = {"artifact": artifact, "output": tmp_path / "x.onnx", "pipe": tmp_path / "pipe"}
    words = [word.format(**paths) for word in words]
    assert refused(capsys, "export", *words, status=status).startswith(line)
    assert not paths["output"].exists()
