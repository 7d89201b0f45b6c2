from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.gpu.bench import NETWORKS, GpuBench, Network
from benchmarks.gpu.report import report
from benchmarks.gpu.schedule import run_until
from benchmarks.gpu.targets import targets

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import bench, epoch
from mulfree import models
from mulfree.bench.layers import layers_of
from mulfree.bench.steps import StepOptions
from mulfree.data import make_synthetic

CPU = torch.device("cpu")
SPLITS = make_synthetic(train=8, test=10, image_size=8)
MEASURED = ("forward", "steps", "memory", "epoch")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> GpuBench:
    """Few images, three layers, and memory as of a device."""
    monkeypatch.setattr(bench, "layers_of", lambda *args, **sizes: layers_of(*args, **sizes)[1:4])
    monkeypatch.setattr(bench, "cifar10", lambda: ("synthetic", SPLITS))
    added = {"adder2d": 230, "conv2d": 200}
    monkeypatch.setattr(bench, "step_memory", lambda model, name, **_: {"added": added[name]})
    networks = [Network(name=name, batch=2, image_size=8) for name in ("resnet20", "vgg_small")]
    return GpuBench(operator="adder2d", device=CPU, networks=networks, limit=1e9, rounds=1)


def measure(tiny: GpuBench) -> dict[str, Any]:
    result: dict[str, Any] = {}
    run_until(math.inf, {name: tiny.parts()[name] for name in MEASURED}, result.update)
    return result


@pytest.mark.slow
def test_everything_is_measured_held_against_the_targets_and_shown(tiny: GpuBench) -> None:
    parts = measure(tiny)
    assert [part["status"] for part in parts.values()] == ["measured"] * 4
    # Networks take turns, 3x3 layers first.
    layers = [
        (entry["model"], entry["window"]["kernel"][0]) for entry in parts["forward"]["entries"]
    ]
    assert layers[:4] == [("resnet20", 3), ("vgg_small", 3)] * 2
    assert layers[4] == ("resnet20", 1)
    assert [entry["mode"] for entry in parts["steps"]["entries"]] == ["graph", "eager"] * 2
    assert [entry["ratio"] for entry in parts["memory"]["entries"]] == [1.15] * 4
    epochs = [(entry["operator"], entry["precision"]) for entry in parts["epoch"]["entries"]]
    assert len(epochs) == len(set(epochs)) * 2 == 12
    result = {
        "settings": {"operator": "adder2d"},
        "targets": targets(parts, "adder2d"),
        "parts": parts,
    }
    text = report(json.loads(json.dumps(result)))
    for title in ("Targets", "Parts", "Training steps", "Peak memory", "An epoch", "Layers"):
        assert f"\n{title}" in f"\n{text}"
    assert "Rates" not in text
    # The batch is not the target's.
    row = next(line for line in text.splitlines() if "resnet20, batch 256" in line)
    assert row.count("not measured") == 2


def test_what_fails_is_an_entry_with_an_error(
    tiny: GpuBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no memory\nleft")

    for function in ("time_layer", "bench_step", "step_memory", "time_epoch"):
        monkeypatch.setattr(bench, function, fail)
    parts = measure(tiny)
    errors = {entry["error"] for part in parts.values() for entry in part["entries"]}
    assert errors == {"RuntimeError: no memory left"}
    text = report({"settings": {"operator": "adder2d"}, "targets": [], "parts": parts})
    assert "RuntimeError: no memory left" in text


def test_an_epoch_is_the_second_one_and_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULFREE_DATA", raising=False)
    monkeypatch.setattr(epoch, "_IMAGES", 8)
    source, splits = epoch.cifar10()
    assert (source, len(splits.train)) == ("synthetic", 8)
    entry = epoch.time_epoch(
        "resnet20", "conv2d", splits, batch=3, options=StepOptions(mode="graph")
    )
    assert entry["steps"] == 2
    assert entry["images_per_s"] == pytest.approx(6 / entry["seconds"])


def test_the_script_needs_a_gpu_and_writes_a_file_named_after_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--seconds", "0", "--output", str(tmp_path / "new")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    assert capsys.readouterr().err == "benchmarks.gpu: torch finds no CUDA GPU\n"
    card = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    for name, value in (
        ("is_available", True),
        ("current_device", 0),
        ("get_device_name", "NVIDIA H200 (NVL)"),
        ("get_device_properties", card),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(gpu, "environment", lambda: {"gpu": {"name": "NVIDIA H200"}})
    monkeypatch.setattr(gpu, "sm_clock_hz", lambda device: 1.98e9)
    assert {network.name for network in NETWORKS} - set(models.list_models()) <= {"efficientnet_b0"}
    assert gpu.main() == 0
    path = tmp_path / "new" / "gpu-nvidia-h200-nvl.json"
    result = json.loads(path.read_text())
    assert result.keys() == {"schema", "environment", "settings", "limits", "parts", "targets"}
    assert list(result["parts"])[:6] == ["rates", *MEASURED, "loader"]
    assert {part["status"] for part in result["parts"].values()} == {"not measured: out of time"}
    assert [row["met"] for row in result["targets"]] == [None] * 4
    # 132 multiprocessors of 128 lanes, two instructions a tap.
    limit = pytest.approx(16.7e12, rel=2e-3)
    assert result["limits"] == {"by_instructions": limit, "measured": None}
    assert capsys.readouterr().out.endswith(f"written to {path}\n")
