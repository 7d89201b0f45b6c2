from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import make_config

from benchmarks import depth_dynamic as benchmark
from mulfree.training import TrainConfig

MODEL: dict[str, Any] = {
    "name": "depth_dynamic",
    "operator": "conv2d",
    "options": {
        "width": 0.125,
        "network": "resnet20",
        "network_options": {"blocks": [1, 2, 1]},
        "subnets": {"short": {"blocks": [1, 1, 1]}},
    },
}


def run(monkeypatch: pytest.MonkeyPatch, recipe: Path, output: Path, *words: str) -> None:
    given = [str(recipe), "--output", str(output), *words]
    monkeypatch.setattr("sys.argv", ["depth_dynamic.py", *given])
    benchmark.main()


def recipe(tmp_path: Path, **sections: Any) -> Path:
    given = {
        "model": MODEL,
        "method": {"name": "embedded_kd"},
        "trainer": {"epochs": 1},
        **sections,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(make_config(**given).to_yaml())
    return path


def test_variants_and_the_networks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--variants", "ekd", "extremes", "alone")
    run(monkeypatch, recipe(tmp_path), tmp_path / "out", *words)
    capsys.readouterr()
    # What is there is not trained again.
    weights = tmp_path / "out/conv2d-ekd-ekd-seed0/model.safetensors"
    before = weights.stat().st_mtime_ns
    run(monkeypatch, recipe(tmp_path), tmp_path / "out", *words)
    assert weights.stat().st_mtime_ns == before
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    named = [(row["variant"], row["network"]) for row in rows]
    expected = ("ekd", "extremes", "alone")
    assert named == [(variant, depth) for variant in expected for depth in ("short", "resnet20")]
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    lines = (tmp_path / "out/table.md").read_text().splitlines()
    title, _, head, _, first, _, alone = lines
    assert title.startswith("Accuracy on the test images, ")
    assert head == "| variant | short | resnet20 | seeds | minutes a seed |"
    assert "(" in first
    assert "(" not in alone
    assert capsys.readouterr().out.endswith("\n".join(lines) + "\n")
    assert (tmp_path / "out" / benchmark.PLOT).exists()


def test_variants_are_compared_on_held_out_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def trained(config: TrainConfig, directory: Path) -> dict[str, Any]:
        assert config.data.validation == 0.25
        directory.mkdir(parents=True)
        seen.append(directory)
        # Test accuracies are better for the variant that is worse on held-out images.
        held_out = 0.75 if directory.name.startswith("conv2d-ekd") else 0.25
        names = ("", "short_")
        return {
            "seconds": 60.0,
            **{f"validation_{name}accuracy": held_out for name in names},
            **{f"test_{name}accuracy": 1 - held_out for name in names},
        }

    monkeypatch.setattr(benchmark, "trained", trained)
    path = recipe(tmp_path, data={"validation": 0.25})
    run(monkeypatch, path, tmp_path / "out", "--variants", "ekd", "spread")
    assert len(seen) == 2
    content = json.loads((tmp_path / "out/results.json").read_text())
    assert content["split"] == "validation"
    assert [row["accuracy"] for row in content["rows"]] == [0.75, 0.75, 0.25, 0.25]
    title, *_, ekd, spread = (tmp_path / "out/table.md").read_text().splitlines()
    assert title.startswith("Accuracy on the held-out training images, ")
    assert ekd == "| ekd | 75.00% | 75.00% | 1 | 1.0 |"
    assert spread == "| spread | 25.00% | 25.00% | 1 | 1.0 |"


def test_the_networks_alone_are_those_inside() -> None:
    config = make_config(model=MODEL, method={"name": "embedded_kd"})
    short, full = benchmark.depths_of(config).values()
    assert short.name == full.name == "resnet20"
    assert short.options["blocks"] == [1, 1, 1]
    assert full.options["blocks"] == [1, 2, 1]
    assert short.options["width"] == 0.125
    joint = benchmark.variant_of(config, "joint").method
    assert (joint.kl_weight, joint.subnet_weight) == (0, 1)  # type: ignore[attr-defined]
    extremes = benchmark.variant_of(config, "extremes")
    assert extremes.model.options["batch_norm"] == "stage"


def test_another_method_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, method={"name": "supervised"})
    with pytest.raises(SystemExit):
        run(monkeypatch, path, tmp_path / "out")
    line = "benchmarks.depth_dynamic: `recipe` must be of method embedded_kd, got supervised"
    assert line in capsys.readouterr().err
