from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mulfree import functional, operators
from mulfree.bench.report import report
from mulfree.cli import bench
from mulfree.cli.main import main
from mulfree.environment import PACKAGES
from mulfree.operators import get_operator

TINY = ("--model", "lenet5_bn", "--input-size", "1,28,28", "--batch", "2", "--rounds", "2")

# What a published result has to state: keys, and what their values are.
NUMBER = (int, float)
TIMING = {"median_s": NUMBER, "q1_s": NUMBER, "q3_s": NUMBER, "samples": int}
COMPARED = {**TIMING, "ratio": NUMBER, "ratio_q1": NUMBER, "ratio_q3": NUMBER}
WINDOW = {
    "batch": int,
    "in_channels": int,
    "out_channels": int,
    "size": list,
    "kernel": list,
    "stride": list,
    "padding": list,
    "dilation": list,
    "groups": int,
}
MEMORY = {"before": int, "peak": int, "added": int}
SCHEMA: dict[str, Any] = {
    "schema": str,
    "environment": {
        "versions": {name: (str, type(None)) for name in ("python", "mulfree", *PACKAGES)},
        "platform": str,
        "cpu": str,
        "cores": int,
        "threads": int,
        "load_average": (list, type(None)),
        "load_average_after": (list, type(None)),
        "gpu": (dict, type(None)),
        "native": {"available": bool, "isas": list, "isa": str, "reason": (str, type(None))},
        "commit": (str, type(None)),
    },
    "settings": {
        "operator": str,
        "baseline": str,
        "suites": list,
        "rounds": int,
        "device": str,
        "threads": int,
        "isa": (str, type(None)),
        "quick": bool,
    },
    "operator": {
        "summary": [{"model": str, "input": str, "pass": str, "geometries": int, "ratio": NUMBER}],
        "layers": [
            {
                "model": str,
                "geometry": str,
                "window": WINDOW,
                "occurrences": int,
                "taps": int,
                "input": str,
                "pass": str,
                "timings": {"adder2d": COMPARED, "conv2d": TIMING},
                "ratio": NUMBER,
                "gtaps_per_s": NUMBER,
            }
        ],
    },
    "isa": [
        {
            "model": str,
            "geometry": str,
            "window": WINDOW,
            "pass": str,
            "timings": {"best": TIMING, "scalar": COMPARED},
            "gtaps_per_s": {"best": NUMBER, "scalar": NUMBER},
        }
    ],
    "step": {
        "model": str,
        "batch": int,
        "input_size": list,
        "precision": str,
        "mode": str,
        "timings": {"adder2d": COMPARED, "conv2d": TIMING},
        "best": {"adder2d": str, "conv2d": str},
        "ratio": NUMBER,
    },
    "memory": {
        "model": str,
        "batch": int,
        "adder2d": MEMORY,
        "conv2d": MEMORY,
        "ratio": NUMBER,
    },
}


def conforms(value: Any, schema: Any, path: str = "result") -> None:
    if isinstance(schema, dict):
        assert value.keys() == schema.keys(), path
        for key, inner in schema.items():
            conforms(value[key], inner, f"{path}.{key}")
    elif isinstance(schema, list):
        assert value, path
        for item in value:
            conforms(item, schema[0], f"{path}[]")
    else:
        assert isinstance(value, schema), f"{path} is {value!r}"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adder operator in plain torch, with two instruction sets in name."""
    adder = replace(
        get_operator("adder2d"), function=partial(functional.adder2d, backend="reference")
    )
    everything = {name: get_operator(name) for name in operators.OPERATORS} | {"adder2d": adder}
    monkeypatch.setattr(bench, "get_operator", everything.__getitem__)
    fake = SimpleNamespace(supported_isas=lambda: ["best", "scalar"])
    monkeypatch.setattr(bench, "core", lambda: fake)
    monkeypatch.setattr("mulfree.environment.core", lambda: fake)
    monkeypatch.delenv("MULFREE_ISA", raising=False)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for the processes of their own; holds what they were asked."""
    asked: list[dict[str, Any]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(json.loads(command[-1]))
        added = 300 if asked[-1]["operator"] == "adder2d" else 200
        memory = json.dumps({"before": 100, "peak": 100 + added, "added": added})
        return subprocess.CompletedProcess(command, 0, stdout=memory, stderr="")

    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=run))
    return asked


def steps_in_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(**settings: Any) -> dict[str, Any]:
        timing = {"median_s": 1.0, "q1_s": 1.0, "q3_s": 1.0, "samples": settings["rounds"]}
        compared = {**timing, "ratio": 2.0, "ratio_q1": 2.0, "ratio_q3": 2.0}
        return {
            "model": settings["model"],
            "batch": settings["batch"],
            "input_size": list(settings["input_size"]),
            "precision": settings["how"].precision,
            "mode": settings["how"].mode,
            "best": {"adder2d": "adder2d", "conv2d": "conv2d"},
            "timings": {"adder2d": compared, "conv2d": timing},
            "ratio": 2.0,
        }

    monkeypatch.setattr(bench, "bench_step", timed)


@pytest.mark.usefixtures("plain")
def test_everything_is_measured_shown_and_written(
    measured: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps_in_plain_torch(monkeypatch)
    path = tmp_path / "result.json"
    threads = torch.get_num_threads()
    assert main(["bench", *TINY, "--threads", "1", "--output", str(path)]) == 0
    result = json.loads(path.read_text())
    conforms(result, SCHEMA)
    assert result["schema"] == "mulfree.bench/1"
    assert result["settings"]["threads"] == 1
    assert torch.get_num_threads() == threads
    assert [layer["window"]["kernel"] for layer in result["operator"]["layers"][::4]] == [
        [5, 5],
        [5, 5],
        [1, 1],
    ]
    assert result["memory"]["ratio"] == 1.5
    assert [request["operator"] for request in measured] == ["adder2d", "conv2d"]
    assert measured[0] == {
        "model": "lenet5_bn",
        "operator": "adder2d",
        "batch": 2,
        "input_size": [1, 28, 28],
        "threads": 1,
    }
    assert capsys.readouterr().out == report(result)


@pytest.mark.usefixtures("plain")
def test_a_forced_instruction_set_reaches_the_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[str | None, str | None]] = []

    def spy(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
        seen.append((os.environ.get("MULFREE_ISA"), os.environ.get("ONEDNN_MAX_CPU_ISA")))
        return []

    monkeypatch.setattr(bench, "bench_layer", spy)
    monkeypatch.setattr(bench, "report", lambda result: "")
    assert main(["bench", "operator", *TINY, "--isa", "scalar"]) == 0
    assert seen == [("scalar", "SSE41")] * 3
    assert "MULFREE_ISA" not in os.environ


def test_on_a_gpu_nothing_is_native_and_memory_is_the_allocators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices: dict[str, str] = {}

    def layer(*args: Any, rounds: int, device: torch.device) -> list[dict[str, Any]]:
        devices["operator"] = device.type
        return []

    def step(**settings: Any) -> dict[str, Any]:
        devices["step"] = settings["how"].device.type
        return {}

    def memory(**settings: Any) -> dict[str, int]:
        devices["memory"] = settings["how"].device.type
        return {"before": 0, "peak": 2, "added": 2}

    def missing() -> None:
        raise AssertionError("the native kernels were asked for")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench, "core", missing)
    monkeypatch.setattr(bench, "environment", lambda: {"load_average": None})
    monkeypatch.setattr(bench, "bench_layer", layer)
    monkeypatch.setattr(bench, "bench_step", step)
    monkeypatch.setattr(bench, "step_memory", memory)
    seen: list[dict[str, Any]] = []

    def show(result: dict[str, Any]) -> str:
        seen.append(result)
        return ""

    monkeypatch.setattr(bench, "report", show)
    assert main(["bench", "--device", "cuda", "--quick"]) == 0
    assert devices == {"operator": "cuda", "step": "cuda", "memory": "cuda"}
    assert seen[0]["settings"]["suites"] == ["operator", "step", "memory"]
    assert seen[0]["memory"]["ratio"] == 1.0


@pytest.mark.parametrize("words", [["isa"], ["operator", "--isa", "scalar"]])
def test_instruction_sets_are_a_cpus(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["bench", *words, "--device", "cuda"]) == 2
    line = "bench: `--device` must be cpu for instruction sets, got cuda"
    assert line in capsys.readouterr().err


@pytest.mark.usefixtures("plain")
def test_quick_is_one_network_and_few_rounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, int, int]] = []

    def spy(operator: Any, layer: Any, *, rounds: int, device: Any) -> list[dict[str, Any]]:
        seen.append((layer.model, layer.window.batch, rounds))
        return []

    monkeypatch.setattr(bench, "bench_layer", spy)
    assert main(["bench", "operator", "--quick"]) == 0
    assert set(seen) == {("resnet20", 8, 3)}
    seen.clear()
    assert main(["bench", "operator"]) == 0
    assert set(seen) == {("resnet20", 128, 15), ("resnet18", 8, 15)}


def test_the_papers_optimiser_rescales_adder_weights() -> None:
    network = operators.get_operator("adder2d").conv(2, 3, 3)
    optimizer = bench.sgd(network)
    weight = next(network.parameters())
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert float(weight.grad.square().mean().sqrt()) == pytest.approx(0.2)


def test_memory_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def spy(**settings: Any) -> dict[str, int]:
        asked.update(settings)
        return {"before": 1, "peak": 3, "added": 2}

    monkeypatch.setattr(bench, "step_memory", spy)
    threads = torch.get_num_threads()
    assert json.loads(bench.measure_memory(json.dumps({"model": "x", "threads": threads}))) == {
        "before": 1,
        "peak": 3,
        "added": 2,
    }
    assert asked == {"model": "x", "make_optimizer": bench.sgd}


@pytest.mark.slow
def test_memory_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "memory", *TINY]) == 0
    assert "Peak memory of training steps of lenet5_bn, batch 2, MiB" in capsys.readouterr().out


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("stderr", "reason"), [("a\nkilled\n", "killed"), ("", "status 9")])
def test_a_process_that_fails_is_one_line(
    stderr: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = subprocess.CompletedProcess([], 9, stdout="", stderr=stderr)
    fake = SimpleNamespace(run=lambda command, **options: failed)
    monkeypatch.setattr(bench, "subprocess", fake)
    assert main(["bench", "memory", *TINY]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"mulfree bench: error: bench: memory of adder2d was not measured: {reason}"


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["spet"], 2, "argument suite: invalid choice: 'spet' (choose from 'operator', 'isa', 's"),
        (["--operator", "conv2d"], 2, "bench: `--operator` must be one of adder2d, got 'conv2d'"),
        (["--model", "resnet2"], 2, "bench: `--model` must be one of "),
        (["--isa", "sse"], 2, "bench: `--isa` must be one of best, scalar, got 'sse'"),
        (["isa", "--isa", "best"], 2, "bench: `--isa` must be left out of the comparison of instr"),
        (["step", "--batch", "1"], 2, "bench: `--batch` must be at least 2 for training steps, g"),
        (["--output", "/no/where.json"], 1, "No such file or directory: /no/where.json"),
        (["--rounds", "0"], 2, "argument --rounds: must be a whole number >= 1, got '0'"),
        (["--round", "3"], 2, "unknown option --round; did you mean --rounds?"),
        (["--device", "cuda"], 2, "bench: `--device` must be cpu where torch finds no CUDA GPU"),
        (["operator", "--input-size", "3"], 2, "cost.count: `input_size` must fit ResidualN"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"mulfree bench: error: {line}")
    assert captured.err.count("\n") == 1
