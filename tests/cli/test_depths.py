"""Commands on a network of several depths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.command import refused, shown
from tests.training.runs import assert_same, make_config
from torch import nn

from mulfree import cost, models
from mulfree.models import DepthDynamicNetwork, save_weights
from mulfree.runtime import Session, load
from mulfree.training import load_model, train

MODEL = {
    "name": "depth_dynamic",
    "options": {
        "width": 0.125,
        "network": "resnet20",
        "network_options": {"blocks": [1, 2, 1]},
        "subnets": {"short": {"blocks": [1, 1, 1]}},
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    directory = tmp_path_factory.mktemp("depths")
    train(make_config(directory, model=MODEL, method={"name": "embedded_kd"}))
    return directory


@pytest.fixture(scope="module")
def artifact(run: Path) -> Path:
    """A quantised file of all sub-nets."""
    from mulfree.cli.main import main

    path = run / "network.mulfree"
    assert main(["quantize", str(run), "-o", str(path), "--bits", "8", "--images", "64"]) == 0
    return path


def test_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    lines = shown(capsys, "evaluate", run).splitlines()
    assert lines[1].startswith(f"  short: accuracy {metrics['test_short_accuracy']:.2%}  loss ")
    values = json.loads(shown(capsys, "evaluate", run, "--json"))
    accuracy = values["subnets"]["short"]["accuracy"]
    assert accuracy == pytest.approx(metrics["test_short_accuracy"])


def test_profile(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(run)
    assert isinstance(model, models.DepthDynamicNetwork)
    values = json.loads(shown(capsys, "profile", run, "--json"))
    found = {row["name"]: row["cost"] for row in values["subnets"]["networks"]}
    assert list(found) == ["short", "resnet20"]
    for name, operations in found.items():
        counted = cost.count(model.extract(name), (3, 8, 8)).total.cost
        assert (operations["mul"], operations["add"]) == (counted.mul, counted.add)
    assert values["total"]["add"] == found["resnet20"]["add"] > found["short"]["add"]
    lines = shown(capsys, "profile", run).splitlines()
    assert lines[0].startswith("depth_dynamic adder2d, input 3x8x8, ")
    assert any("short" in line and "resnet20" in line for line in lines)


def test_quantize_and_run(run: Path, artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(artifact, depth="short")
    assert session.depths == ("short", "resnet20")
    assert session.graph.name == "depth_dynamic adder2d short"
    picture = run / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    for depth in session.depths:
        session.depth = depth
        logits = session.run(pixels.transpose(2, 0, 1).copy())[0]
        assert session.graph.classes is not None
        best = session.graph.classes[int(logits.argmax())]
        assert f"  {best} " in shown(capsys, "run", artifact, picture, "--depth", depth)
    line = refused(capsys, "run", artifact, picture)
    assert "run: `--depth` must be one of resnet20, short, got None" in line
    line = refused(capsys, "run", artifact, picture, "--depth", "long")
    assert "`depth` must be one of resnet20, short, got 'long'" in line
    line = refused(capsys, "quantize", run, "-o", run / "x", "--equalize")
    assert "`--equalize` must be left out for a depth-dynamic network" in line


def test_export(run: Path, artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "export", artifact, "-o", run / "short.onnx", "--depth", "short")
    small = (run / "short.onnx").stat().st_size
    shown(capsys, "export", artifact, "-o", run / "full.onnx", "--depth", "resnet20")
    assert small < (run / "full.onnx").stat().st_size
    assert load(artifact, "short").output_sizes == {"logits": 3}
    line = refused(capsys, "export", artifact, "-o", run / "x.onnx")
    assert "`entry` must be one of resnet20, short, got None" in line


def test_the_float_network_of_a_depth_is_exported(
    run: Path, tmp_path: Path, exported: list[nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(run)
    assert isinstance(model, DepthDynamicNetwork)
    for depth in ("short", "resnet20"):
        shown(capsys, "export", run, "-o", tmp_path / "x.onnx", "--depth", depth)
        assert_same(exported.pop().state_dict(), model.extract(depth).state_dict())


def test_a_network_of_one_depth(
    run: Path, tmp_path: Path, exported: list[nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(run)
    assert isinstance(model, DepthDynamicNetwork)
    save_weights(model.extract("short"), tmp_path / "short.safetensors")
    words = ("export", tmp_path / "short.safetensors", "-o", tmp_path / "x.onnx")
    line = refused(capsys, *words, "--depth", "short")
    assert "`--depth` must be left out for a network of one depth, got 'short'" in line
    shown(capsys, *words)
    assert len(exported) == 1
