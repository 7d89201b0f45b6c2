"""Commands on networks with exits: tables, thresholds in files, the exit of a picture."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli.command import refused, shown
from tests.runtime.graphs import two_outputs
from tests.training.runs import make_config

from mulfree import data, runtime
from mulfree.cli import early_exit
from mulfree.runtime import EarlyExitSession
from mulfree.tasks.classification.early_exit import THRESHOLDS
from mulfree.training import train

MODEL: dict[str, Any] = {
    "name": "early_exit",
    "operator": "conv2d",
    "options": {"width": 0.125, "network_options": {"blocks": [1, 1, 1]}},
}
# Of the float network for an 8x8 image, by hand: 2 channels in stage 1, 4 in 2, 8 in 3.
STEM = 27 * 2 * 64
FIRST = 2 * 18 * 2 * 64
SECOND = (18 * 4 + 36 * 4 + 2 * 4) * 16
THIRD = (36 * 8 + 72 * 8 + 4 * 8) * 4
COSTS = [
    STEM + FIRST + 2 * 3,
    STEM + FIRST + 2 * 3 + SECOND + 4 * 3,
    STEM + FIRST + 2 * 3 + SECOND + 4 * 3 + THIRD + 8 * 3,
]


@pytest.fixture(scope="module")
def leaving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a network with exits, with held-out images."""
    directory = tmp_path_factory.mktemp("exits")
    train(
        make_config(
            directory,
            model=MODEL,
            method={"name": "early_exit"},
            data={"validation": 0.25},
            trainer={"epochs": 1},
        )
    )
    return directory


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("picture") / "x.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return str(path)


def test_a_table_over_thresholds(
    leaving: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys, "evaluate", leaving).splitlines()
    assert lines[0].startswith("accuracy")
    assert lines[1].split() == [
        *("threshold", "accuracy", "additions", "multiplications"),
        *("exit1", "exit2", "logits"),
    ]
    rows = lines[2 : 2 + len(THRESHOLDS)]
    first, last = rows[0].split(), rows[-1].split()
    assert first[0] == "0"
    assert first[2:] == [f"{COSTS[0]:,}", f"{COSTS[0]:,}", "100.0%", "0.0%", "0.0%"]
    assert last[0] == "never"
    assert last[2:] == [f"{COSTS[2]:,}", f"{COSTS[2]:,}", "0.0%", "0.0%", "100.0%"]
    # All images take the last exit there.
    assert last[1] == lines[0].split()[1]
    assert lines[-3] == "chosen on 256 held-out training images, at most 0.5 points lost there:"
    plot = tmp_path / "p.png"
    words = ("--plot", plot, "--static", run, "--json", "--points-lost=100")
    values = json.loads(shown(capsys, "evaluate", leaving, *words))
    assert [row["threshold"] for row in values["exits"]] == [*THRESHOLDS[:-1], None]
    assert values["exits"][0]["additions"] == COSTS[0]
    # Any loss is allowed: the cheapest.
    assert values["chosen"]["additions"] == COSTS[0]
    assert values["chosen"]["shares"] == {"exit1": 1.0, "exit2": 0.0, "logits": 0.0}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_cost_up_to_every_exit(leaving: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads(shown(capsys, "profile", leaving, "--json"))
    found = {row["name"]: row for row in values["exits"]["networks"]}
    assert list(found) == ["exit1", "exit2", "logits"]
    assert [row["cost"]["mul"] for row in found.values()] == COSTS
    # The whole passes all exits; nothing is left out.
    assert values["total"]["mul"] == COSTS[2]
    assert values["uncalled"] == []
    assert {"network.conv1", "exits.exit1.fc"} <= {layer["name"] for layer in values["layers"]}
    assert values["total"]["params"] == found["logits"]["params"] > found["exit1"]["params"]
    text = shown(capsys, "profile", leaving)
    assert "never called" not in text
    assert re.search(r"exit1 +\| +exit2 +\| +logits", text)
    side_by_side = json.loads(shown(capsys, "profile", "--json", "--compare", leaving))
    assert side_by_side["networks"][0]["cost"]["mul"] == COSTS[2]


def test_options_that_networks_without_exits_lack(
    run: Path, leaving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("--plot", tmp_path / "p.png"), ("--static", run)):
        line = refused(capsys, "evaluate", run, *words)
        assert f"evaluate: `{words[0]}` must be left out for a network without exits" in line
    line = refused(capsys, "evaluate", leaving, "--points-lost=-1")
    assert "must be a number of at least 0, got '-1'" in line


def test_integers_with_a_threshold(
    leaving: Path, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.mulfree"
    words = ("quantize", leaving, "-o", file, "--bits=8", "--images=48")
    _, line, _ = shown(capsys, *words).splitlines()
    found = re.search(r"threshold (\S+): exit1 (\S+)%, exit2 (\S+)%, logits (\S+)%$", line)
    assert found is not None
    graph = runtime.load(file)
    assert graph.exits is not None
    assert list(graph.output_sizes) == ["exit1", "exit2", "logits"]
    assert f"{graph.exits.thresholds[0]:.4g}" == found[1]
    # What was printed is what the file does.
    splits = data.load(make_config(data={"validation": 0.25}).data)
    _, exits = EarlyExitSession(file).run_exits(splits.test.images.numpy())
    shares = np.bincount(exits, minlength=3) / len(exits)
    assert [f"{100 * share:.1f}" for share in shares] == list(found.groups()[1:])

    shown(capsys, *words, "--threshold=0")
    assert shown(capsys, "run", file, picture).endswith("%  (exit1)\n")
    values = json.loads(shown(capsys, "run", file, picture, "--threshold=1.5", "--json"))
    assert values["exit"] == "logits"
    assert "exit1" not in shown(capsys, "run", file, picture, "--threshold=2")


def test_a_threshold_is_not_made_up(
    leaving: Path, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = two_outputs()
    early: Any
    adder, early, *rest = graph.nodes
    small = replace(early, weight=early.weight[:2], scale=early.scale[:2], bias=early.bias[:2])
    graph = replace(graph, nodes=(adder, small, *rest))
    file = tmp_path / "net.mulfree"
    runtime.save(graph, file)
    line = refused(capsys, "run", file, picture)
    assert line.startswith("run: `--threshold` must be given for this network with exits")
    shown(capsys, "run", file, picture, "--threshold=1")
    runtime.save({"main": replace(graph, nodes=(adder, *rest))}, file)
    line = refused(capsys, "run", file, picture, "--threshold=1")
    assert line == "run: `--threshold` must be left out for a network without exits, got 1\n"
    line = refused(capsys, "run", file, picture, "--threshold=nan")
    assert "must be a number of at least 0, got 'nan'" in line
    # Without held-out images there is nothing to choose it on.
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(leaving / "model.safetensors", folder)
    config = (leaving / "config.yaml").read_text()
    assert "validation: 0.25" in config
    (folder / "config.yaml").write_text(config.replace("validation: 0.25", "validation: 0.0"))
    line = refused(capsys, "quantize", folder, "-o", file, "--bits=8", "--images=32")
    assert line.startswith("quantize: `--threshold` must be given for a network with exits whose")
    assert "no threshold is chosen" in shown(capsys, "evaluate", folder)


def test_mean_operations_of_a_table() -> None:
    from mulfree.opcounts import OpCounts
    from mulfree.tasks.classification.early_exit import ExitPoint

    point = ExitPoint(threshold=0.5, accuracy=0.5, cost=0.0, shares=(0.25, 0.75))
    counts = [OpCounts(add=8, mul=4), OpCounts(add=16, mul=0)]
    assert early_exit.mean(point, counts, "add") == 14
    assert early_exit.mean(point, counts, "mul") == 1
    assert early_exit.table(["a", "b"], [point], counts).splitlines() == [
        "threshold  accuracy  additions  multiplications      a      b",
        "      0.5    50.00%         14                1  25.0%  75.0%",
    ]
