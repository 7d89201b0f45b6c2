from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.command import refused, shown

from mulfree.cli.main import main
from mulfree.models import ScaledModel
from mulfree.scaling import plan, search

TINY = (
    *("--model.name", "resnet20", "--model.operator", "conv2d"),
    *("--model.options.depth", "0.3333333333333333", "--model.options.width=0.125"),
    *("--model.options.channel_divisor", "1"),
)
SMALL_DATA = (
    *("--data.name", "synthetic", "--data.image_size", "8", "--data.classes", "2"),
    *("--data.limit", "8", "--data.batch_size", "8", "--trainer.tensorboard", "false"),
)


def test_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--target-mul-add", "6e4", "--image-size", "8", "--json")
    content = json.loads(shown(capsys, "scale", "plan", *TINY, *words))
    plans = {plan["scaling"]: plan for plan in content["plans"]}
    assert list(plans) == ["compound", "depth", "width", "resolution"]
    assert plans["compound"]["mul_add"] <= 6e4
    assert plans["resolution"]["options"]["width"] == 0.125
    assert plans["resolution"]["image_size"] > 8
    assert content["target"] == {"mul-add": 6e4}


def test_plan_as_a_table_for_energy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Counting takes longer than all the rest.
    def energy(scaled: ScaledModel, dtype: str) -> float:
        return 5e5 * scaled.depth * (scaled.width * scaled.image_size) ** 2

    monkeypatch.setattr(plan, "MEASURES", {"energy": energy})
    words = ("--target-energy", "3e-7", "--image-size", "8", "--dtype", "fp32")
    lines = shown(capsys, "scale", "plan", *TINY, *words).splitlines()
    assert lines[0] == "resnet20 conv2d, energy at most 3e-07 J"
    assert [line.split("|")[1].strip() for line in lines[4:8]] == [
        *("compound", "depth", "width", "resolution"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plna",), "scale: `command` must be one of plan, search, got 'plna'; did you mean 'pla"),
        (("plan",), "one of the arguments --target-mul-add --target-additions --target-energy"),
        (("plan", "--target-mul-add", "x"), "argument --target-mul-add: invalid float value: 'x'"),
        (("plan", "--target-mul-ad", "1"), "unknown option --target-mul-ad; did you mean --target"),
        (("plan", "--target-mul-add", "1e9"), "scale: `name` must be a network with the opt"),
        (("plan", "--data.name", "digits", "--target-mul-add", "1"), "unknown option --data.name"),
        (("search", "--output", "x", *TINY), "`data.validation` must be above 0"),
        (("search", *TINY), "the following arguments are required: --output"),
        (("search", "--output", "x", "--modl.name", "y"), "unknown option --modl.name"),
        (("search", "--output", "x", "--model.nme", "y"), "unknown option 'model.nme'"),
        (("search", "--output", "x", "--growth", "0"), "`growth` must be above 1 and at most 16"),
    ],
)
def test_refuses(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "scale", *words)
    assert not list(tmp_path.iterdir())


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale"]) == 2
    assert "search  search the ratios" in capsys.readouterr().err
    for command in ((), ("plan",), ("search",)):
        assert "mulfree scale" in shown(capsys, "scale", *command, "-h")


def test_a_search_that_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    words = (*TINY, *SMALL_DATA, "--data.validation", "0.02", "--epochs", "1")
    settings = ("--step", "1", "--tolerance", "0.1", "--output", str(output))
    text = shown(capsys, "scale", "search", *words, *settings)
    # The product is 2 for the double depth alone.
    assert "resnet20 conv2d, trained for 1 epochs" in text
    assert "trials: 1 complete" in text
    best = json.loads((output / "results.json").read_text())["best"]
    assert (best["alpha"], best["beta"], best["gamma"]) == (2.0, 1.0, 1.0)
    assert (output / "trials" / "000" / "metrics.json").exists()


def test_an_interrupted_search(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped: Callable[..., None] = lambda config, directory: None  # noqa: E731
    monkeypatch.setattr(search, "trained", stopped)
    words = (*TINY, *SMALL_DATA, "--data.validation", "0.02", "--step", "1")
    assert main(["scale", "search", *words, "--output", str(tmp_path / "a b")]) == 130
    assert f"mulfree scale search {' '.join(words)} --output '{tmp_path}/a b'" in (
        capsys.readouterr().out
    )
