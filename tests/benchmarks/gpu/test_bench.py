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
from mulfree import data, models
from mulfree.bench.layers import layers_of
from mulfree.bench.steps import StepOptions
from mulfree.data import DataConfig, DataSplits, make_synthetic

CPU = torch.device("cpu")
TINY = Network(name="resnet20", batch=2, image_size=8)
SPLITS = make_synthetic(train=8, test=10, image_size=8)
NAMES = [
    "rates",
    "forward",
    "steps",
    "memory",
    "epoch",
    "steps of other networks and formats",
    "compiled steps",
    "layers",
    "layers in other formats",
    "compiled steps of other networks",
]


def made(*networks: Network) -> GpuBench:
    return GpuBench(
        operator="adder2d",
        device=CPU,
        networks=networks or (TINY,),
        limit=1e9,
        rounds=1,
    )


def measure(names: list[str], tiny: GpuBench) -> dict[str, Any]:
    result: dict[str, Any] = {}
    parts = {name: entries for name, entries in tiny.parts().items() if name in names}
    run_until(math.inf, parts, result.update)
    return result


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images, three layers, and memory that a CPU can be asked for."""

    def first(*args: Any, **options: Any) -> Any:
        return layers_of(*args, **options)[1:4]

    monkeypatch.setattr(bench, "layers_of", first)
    monkeypatch.setattr(bench, "cifar10", lambda: ("synthetic", SPLITS))

    def memory(model: str, operator: str, **settings: Any) -> dict[str, int]:
        added = 230 if operator == "adder2d" else 200
        return {"before": 0, "peak": added, "added": added}

    monkeypatch.setattr(bench, "step_memory", memory)


def test_the_parts_and_their_order() -> None:
    assert list(made().parts()) == NAMES
    assert {network.name for network in NETWORKS} - set(models.list_models()) <= {"efficientnet_b0"}


@pytest.mark.usefixtures("small")
def test_everything_is_measured_held_against_the_targets_and_shown() -> None:
    names = ["forward", "steps", "memory", "epoch"]
    parts = measure(names, made())
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(
        names, "measured"
    )
    assert [entry["window"]["kernel"] for entry in parts["forward"]["entries"]] == [
        (3, 3),
        (3, 3),
        (1, 1),
    ]
    assert [entry["mode"] for entry in parts["steps"]["entries"]] == ["graph", "eager"]
    assert [entry["ratio"] for entry in parts["memory"]["entries"]] == [1.15, 1.15]
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


@pytest.mark.usefixtures("small")
def test_networks_take_turns() -> None:
    wide = Network(name="vgg_small", batch=2, image_size=8)
    entries = measure(["forward"], made(TINY, wide))["forward"]["entries"]
    assert [entry["model"] for entry in entries] == ["resnet20", "vgg_small"] * 3


@pytest.mark.usefixtures("small")
def test_what_fails_is_an_entry_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no memory\nleft")

    for function in ("time_layer", "bench_step", "step_memory", "time_epoch"):
        monkeypatch.setattr(bench, function, fail)
    parts = measure(["forward", "steps", "memory", "epoch"], made())
    for part in parts.values():
        assert part["entries"]
        for entry in part["entries"]:
            assert entry["error"] == "RuntimeError: no memory left"
            assert entry["model"] == "resnet20"
    text = report({"settings": {"operator": "adder2d"}, "targets": [], "parts": parts})
    assert "RuntimeError: no memory left" in text


def test_an_epoch_is_the_second_one_and_all_of_it() -> None:
    entry = epoch.time_epoch(
        "resnet20", "conv2d", SPLITS, batch=3, options=StepOptions(mode="graph")
    )
    assert entry["steps"] == 2
    assert entry["images_per_s"] == pytest.approx(6 / entry["seconds"])


def test_cifar10_is_real_where_there_is_data(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def synthetic(**sizes: int) -> DataSplits:
        asked.append(sizes)
        return SPLITS

    def load(config: DataConfig) -> DataSplits:
        asked.append(config.name)
        return SPLITS

    monkeypatch.setattr(epoch, "make_synthetic", synthetic)
    monkeypatch.setattr(data, "load", load)
    monkeypatch.delenv("MULFREE_DATA", raising=False)
    assert epoch.cifar10() == ("synthetic", SPLITS)
    monkeypatch.setenv("MULFREE_DATA", "/somewhere")
    assert epoch.cifar10() == ("cifar10", SPLITS)
    assert asked == [{"train": 50_000, "test": 10}, "cifar10"]


def test_the_script_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu"])
    assert gpu.main() == 2
    assert capsys.readouterr().err == "benchmarks.gpu: torch finds no CUDA GPU\n"


def test_the_script_writes_a_file_named_after_the_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200 (NVL)")
    monkeypatch.setattr(gpu, "environment", lambda: {"gpu": {"name": "NVIDIA H200"}})
    monkeypatch.setattr(gpu, "two_instruction_limit", lambda device: 1e13)
    monkeypatch.setattr("sys.argv", ["gpu", "--seconds", "0", "--output", str(tmp_path / "new")])
    assert gpu.main() == 0
    path = tmp_path / "new" / "gpu-nvidia-h200-nvl.json"
    result = json.loads(path.read_text())
    assert result.keys() == {"schema", "environment", "settings", "limits", "parts", "targets"}
    assert list(result["parts"]) == [*NAMES[:5], "loader", *NAMES[5:]]
    assert {part["status"] for part in result["parts"].values()} == {"not measured: out of time"}
    assert [row["met"] for row in result["targets"]] == [None] * 4
    assert result["limits"] == {"by_instructions": 1e13, "measured": None}
    assert capsys.readouterr().out.endswith(f"written to {path}\n")


@pytest.mark.parametrize(
    ("capability", "multiprocessors", "clock", "limit"),
    [((9, 0), 132, 1.98e9, 16.7e12), ((8, 0), 108, 1.41e9, 4.87e12)],
)
def test_the_limit_is_two_instructions_a_tap(
    capability: tuple[int, int],
    multiprocessors: int,
    clock: float,
    limit: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    major, minor = capability
    facts = SimpleNamespace(major=major, minor=minor, multi_processor_count=multiprocessors)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr(gpu, "sm_clock_hz", lambda device: clock)
    assert gpu.two_instruction_limit(CPU) == pytest.approx(limit, rel=2e-3)
    monkeypatch.setattr(gpu, "sm_clock_hz", lambda device: None)
    assert gpu.two_instruction_limit(CPU) is None


def test_the_measured_limit_is_the_rate_of_its_two_instructions() -> None:
    rates = [
        {"name": "forward fp16x2: |x - w|, add", "taps_per_s": 3.0},
        {"name": "forward fp32: |x - w|, add", "taps_per_s": 2.0},
        {"name": "forward fp32: max(x, w), add", "taps_per_s": 1.0},
    ]
    assert gpu.measured_limit({"rates": {"entries": rates}}) == 2.0
