"""Commands on a network of dynamic resolution: evaluate, profile, quantize, run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli.command import refused
from tests.training.runs import make_config

from mulfree import models
from mulfree.cli.main import main
from mulfree.runtime import DynamicResolutionSession
from mulfree.runtime.artifact import load_entries
from mulfree.training import train

OPTIONS = {"network": "resnet20", "resolutions": [8, 4], "width": 0.125, "predictor_width": 1.0}
SECTION = {"name": "dynamic_resolution", "operator": "conv2d", "options": OPTIONS}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both phases of a training."""
    folder = tmp_path_factory.mktemp("run")
    method: dict[str, Any] = {"name": "dynamic_resolution", "phase": "pretrain"}
    assert train(make_config(folder / "first", method=method, model=SECTION)).finished
    model = SECTION | {"pretrained": str(folder / "first")}
    method |= {"phase": "finetune", "alpha": 0.6}
    assert train(make_config(folder / "second", method=method, model=model)).finished
    return folder / "second"


def test_evaluate(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "choices.png"
    assert main(["evaluate", str(run), "--json", "--plot", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["side"] for row in found["resolutions"]] == [8, 4]
    assert sum(row["images"] for row in found["resolutions"]) == found["images"]
    costs = [row["operations"] for row in found["resolutions"]]
    assert found["mean_operations"] == pytest.approx(
        found["predictor_operations"]
        + sum(row["images"] * row["operations"] for row in found["resolutions"]) / found["images"]
    )
    assert costs[0] > costs[1]
    assert found["accuracy"] == json.loads((run / "metrics.json").read_text())["test_accuracy"]
    with Image.open(picture) as image:
        assert min(image.size) > 100
    assert main(["evaluate", str(run)]) == 0
    assert "accuracy alone" in capsys.readouterr().out


def test_profile(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(run), "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["networks"]}
    assert list(found) == ["predictor", "8", "4"]
    assert found["8"]["input_size"] == [3, 8, 8]
    assert main(["profile", str(run), "--dtype", "int8"]) == 2
    assert "network of dynamic resolution" in capsys.readouterr().err


def test_quantize_and_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "network.mulfree"
    assert main(["quantize", str(run), "-o", str(file), "--bits", "8"]) == 0
    assert "8 bits" in capsys.readouterr().out
    assert list(load_entries(file)) == ["predictor", "8", "4"]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert main(["run", str(file), str(tmp_path / "a.png"), "--json"]) == 0
    (best,) = json.loads(capsys.readouterr().out)["classes"]
    session = DynamicResolutionSession(file)
    logits = session.run(np.ascontiguousarray(pixels.transpose(2, 0, 1))[None])
    assert session.graph.classes is not None
    assert best["class"] == session.graph.classes[int(logits.argmax())]


def test_a_plot_that_cannot_be_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "evaluate: `--plot` must end in .png, got a.jpg\n"
    assert refused(capsys, "evaluate", run, "--plot=a.jpg") == line
    assert "no/a.png" in refused(capsys, "evaluate", run, "--plot=no/a.png", status=1)


def test_a_plot_of_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.save_weights(models.create_model("resnet20", width=0.125), tmp_path / "a.safetensors")
    words = ("evaluate", tmp_path / "a.safetensors", "--data.name=synthetic", "--plot=a.png")
    assert "`--plot` must be left out for a network without exits and" in refused(capsys, *words)
