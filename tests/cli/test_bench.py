from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.command import refused, shown

from mulfree._native import core
from mulfree.bench.suites import SUITES, BenchOptions, Suite, get_suite, memory
from mulfree.bench.suites import runtime as runtime_suite
from mulfree.cli import bench
from mulfree.cli.main import main

TINY = ("--models", "lenet5_bn", "--input-size", "1,28,28", "--batches", "2", "--rounds", "2")
PEAK = {"before": 1, "peak": 3, "added": 2}
ISAS = core().supported_isas()
VARIES = re.compile(r"avx.*|scalar|.*(fp32|int8).*")
PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results" / "0.1.0"


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Paths of all values of a result, whatever the packages, processor and fastest network."""
    if isinstance(value, dict) and not path.endswith("versions"):
        for key, inner in value.items():
            yield from keys(inner, f"{path}.{VARIES.sub('*', key)}")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from keys(item, f"{path}[]")
    else:
        yield path


def assert_states_what_is_published(path: Path, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text())
    published = json.loads((PUBLISHED / f"{name}--amd-epyc-zen5-2c.json").read_text())
    assert set(keys(published)) - set(keys(result)) == set()
    assert result["schema"] == published["schema"]
    return result


def test_everything_is_measured_shown_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, Any]] = []

    def measure(words: Any, settings: dict[str, Any], name: str) -> dict[str, int]:
        asked.append(settings)
        return PEAK | {"added": 3 if settings["operator"] == "adder2d" else 2}

    monkeypatch.setattr(memory, "memory_in_process", measure)
    path, threads = tmp_path / "result.json", torch.get_num_threads()
    assert main(["bench", *TINY, "--threads", "1", "--output", str(path)]) == 0
    result = assert_states_what_is_published(path, "all")
    assert result["settings"]["threads"] == 1
    assert torch.get_num_threads() == threads
    kernels = [layer["window"]["kernel"] for layer in result["operator"]["layers"][::4]]
    assert kernels == [[5, 5], [5, 5], [1, 1]]
    assert result["memory"]["ratio"] == 1.5
    settings = {"model": "lenet5_bn", "batch": 2, "input_size": (1, 28, 28), "threads": 1}
    assert asked == [settings | {"operator": name} for name in ("adder2d", "conv2d")]
    names = ("operator", "isa", "step", "memory")
    tables = [get_suite(name).report("adder2d", result[name]) for name in names]
    assert capsys.readouterr().out == "\n".join(tables)


@pytest.mark.slow
def test_networks_of_the_runtime_in_a_file_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="needs mulfree[onnx]")
    pytest.importorskip("onnxscript", reason="needs mulfree[onnx]")
    monkeypatch.setattr(runtime_suite, "memory_of", lambda *args, **options: PEAK)
    words = ("--models", "lenet5_bn", "--input-size", "1,28,28", "--batches", "1,2")
    files = ("--output", str(tmp_path / "result.json"), "--plot", str(tmp_path / "result.png"))
    assert main(["bench", "runtime", *words, "--threads", "1", "--rounds", "1", *files]) == 0
    result = assert_states_what_is_published(tmp_path / "result.json", "runtime")
    assert [(entry["batch"], entry["threads"]) for entry in result["times"]] == [(1, 1), (2, 1)]
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == get_suite("runtime").report("adder2d", result)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options and instruction sets that suites without measurements get, by name."""
    given: dict[str, Any] = {}

    def fake(name: str) -> Suite:
        def run(options: BenchOptions, advance: Any) -> None:
            isas = (os.environ.get("MULFREE_ISA"), os.environ.get("ONEDNN_MAX_CPU_ISA"))
            given[name] = (options, isas)

        return Suite(
            summary="",
            parts=lambda options: 1,
            run=run,
            report=lambda operator, result: "",
            alone=name == "runtime",
            in_all=name != "depthwise",
        )

    monkeypatch.setattr(bench, "get_suite", fake)
    monkeypatch.delenv("MULFREE_ISA", raising=False)
    return given


def test_a_forced_instruction_set_reaches_the_kernels(seen: dict[str, Any]) -> None:
    assert main(["bench", "--isa", "scalar"]) == 0
    assert {name: isas for name, (_, isas) in seen.items()} == dict.fromkeys(
        ("operator", "step", "memory"), ("scalar", "SSE41")
    )
    assert "MULFREE_ISA" not in os.environ


def test_on_a_gpu_instruction_sets_are_left_out(
    seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench, "environment", lambda: {"load_average": None})
    assert main(["bench", "--device", "cuda", "--quick"]) == 0
    assert list(seen) == ["operator", "step", "memory"]
    assert {options for options, _ in seen.values()} == {BenchOptions(device="cuda", quick=True)}


@pytest.mark.parametrize("words", [["isa"], ["operator", "--isa", "scalar"]])
def test_instruction_sets_are_a_cpus(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    line = refused(capsys, "bench", *words, "--device", "cuda")
    assert line == "bench: `--device` must be cpu for instruction sets, got cuda\n"


@pytest.mark.slow
def test_memory_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "memory", *TINY]) == 0
    assert "Peak memory of training steps of lenet5_bn, batch 2, MiB" in capsys.readouterr().out


def test_help_lists_every_suite(capsys: pytest.CaptureFixture[str]) -> None:
    listed = [line.partition(" ")[0] for line in shown(capsys, "bench", "-h").splitlines()]
    assert set(SUITES) <= set(listed)


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (
            ["spet"],
            2,
            "argument suite: invalid choice: 'spet' (choose from 'operator', 'depthwise', ",
        ),
        (["--operator", "conv2d"], 2, "bench: `--operator` must be one of adder2d, got 'conv2d'"),
        (["--models", "resnet20,resnet2"], 2, "bench: `--models` must be one of "),
        (["--isa", "sse"], 2, f"bench: `--isa` must be one of {', '.join(ISAS)}, got 'sse'"),
        (["isa", "--isa", "scalar"], 2, "bench: `--isa` must be left out of the comparison of i"),
        (["step", "--batches", "1"], 2, "bench: `--batches` must be at least 2 for training step"),
        (["--output", "/no/where.json"], 1, "No such file or directory: /no/where.json"),
        (["runtime", "--plot", "/no/where.png"], 1, "No such file or directory: /no/where.png"),
        (["step", "--plot", "x.png"], 2, "bench: `--plot` must be left out, got suite step"),
        (["step", "--batches", "2,3"], 2, "bench: `--batches` must be one number except for runti"),
        (["isa", "--threads", "1,2"], 2, "bench: `--threads` must be one number except for runti"),
        (["runtime", "--isa", "scalar"], 2, "bench: `--isa` must be left out for runtime, got sc"),
        (["--rounds", "0"], 2, "argument --rounds: must be a whole number >= 1, got '0'"),
        (["--batches", "1,0"], 2, "argument --batches: must be a whole number >= 1, got '0'"),
        (["--threads", "2000"], 2, "argument --threads: must be at most 1024, got '2000'"),
        (["--model", "resnet20"], 2, "unknown option --model; did you mean --models?"),
        (["--device", "cuda"], 2, "bench: `--device` must be cpu where torch finds no CUDA GPU"),
        (["--input-size", "3"], 2, "bench: `--input-size` must be three sizes C,H,W, got (3,)"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "bench", *words, status=status).startswith(line)
