from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from mulfree.bench.runtime_report import report
from mulfree.cli import bench_runtime
from mulfree.cli.main import main

pytest.importorskip("onnxruntime", reason="needs mulfree[onnx]")
pytest.importorskip("onnxscript", reason="needs mulfree[onnx]")

NUMBER = (int, float)
NAMES = (
    "mulfree int8 adder2d",
    "mulfree int8 conv2d",
    "torch fp32",
    "onnxruntime fp32",
    "onnxruntime int8",
)
TIMING = {"median_s": NUMBER, "q1_s": NUMBER, "q3_s": NUMBER, "samples": int}
MEMORY = {"before": int, "peak": int, "added": int}
# What a published result has to state.
SCHEMA = {
    "schema": str,
    "environment": dict,
    "settings": {
        "models": list,
        "batches": list,
        "threads": list,
        "operator": str,
        "baseline": str,
        "quick": bool,
    },
    "times": [
        {
            "model": str,
            "batch": int,
            "threads": int,
            "input_size": list,
            "timings": dict,
            "images_per_s": dict.fromkeys(NAMES, NUMBER),
            "fastest_cnn": str,
            "times_as_fast": dict.fromkeys(NAMES[:2], NUMBER),
        }
    ],
    "files": [{"model": str, "bytes": dict.fromkeys(NAMES, int)}],
    "memory": [{"model": str, "batch": int, "memory": dict.fromkeys(NAMES, MEMORY)}],
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


def test_everything_is_measured_shown_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        bench_runtime, "memory_of", lambda *args, **options: {"before": 1, "peak": 3, "added": 2}
    )
    words = ("--models", "lenet5_bn", "--input-size", "1,28,28", "--batches", "1,2")
    files = ("--output", str(tmp_path / "result.json"), "--plot", str(tmp_path / "result.png"))
    assert main(["bench", "runtime", *words, "--threads", "1", "--rounds", "1", *files]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    conforms(result, SCHEMA)
    assert result["schema"] == "mulfree.bench-runtime/1"
    assert result["environment"]["onnx"].keys() == {"onnx", "onnxruntime"}
    assert [(entry["batch"], entry["threads"]) for entry in result["times"]] == [(1, 1), (2, 1)]
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == report(result)


def measured(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """What is asked for by these words; nothing is measured."""
    asked: dict[str, Any] = {"made": [], "timed": []}

    def make(model: str, operator: str, folder: Path, **options: Any) -> list[Any]:
        asked["made"].append((model, options["input_size"], options["num_classes"]))
        return []

    def time(candidates: Any, **options: Any) -> dict[str, Any]:
        asked["timed"].append((options["batch"], options["threads"], options["rounds"]))
        return {}

    monkeypatch.setattr(bench_runtime, "make_candidates", make)
    monkeypatch.setattr(bench_runtime, "check", lambda candidates, size: None)
    monkeypatch.setattr(bench_runtime, "bench_networks", time)
    monkeypatch.setattr(bench_runtime, "report", lambda result: "")
    assert main(["bench", "runtime", *words]) == 0
    return asked


def test_all_networks_at_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(monkeypatch)
    large, small = (3, 224, 224), (3, 32, 32)
    assert asked["made"] == [
        ("resnet18", large, 1000),
        ("resnet34", large, 1000),
        ("resnet50", large, 1000),
        ("resnet20", small, 10),
        ("resnet32", small, 10),
        ("vgg_small", small, 10),
    ]
    assert asked["timed"] == [(1, 1, 21), (1, 2, 21), (32, 1, 7), (32, 2, 7)] * 6


def test_quick_is_one_network_and_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(monkeypatch, "--quick")
    assert asked == {"made": [("resnet20", (3, 32, 32), 10)], "timed": [(1, 1, 5)]}


def test_onnx_runtime_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "onnxruntime":
            raise ModuleNotFoundError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main(["bench", "runtime"]) == 2
    line = "bench: `runtime` needs onnxruntime: pip install mulfree[onnx]"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["--models", "resnet20,resnet2"], 2, "bench: `--models` must be one of lenet5_bn, "),
        (["--operator", "conv2d"], 2, "bench: `--operator` must be one of adder2d, got 'conv2d'"),
        (["--input-size", "32"], 2, "bench: `--input-size` must be three sizes C,H,W, got (32,)"),
        (["--batches", "1,0"], 2, "argument --batches: must be a whole number >= 1, got '0'"),
        (["--plot", "/no/where.png"], 1, "No such file or directory: /no/where.png"),
        (["--batch", "3"], 2, "unknown option --batch; did you mean --batches?"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "runtime", *words]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"mulfree bench: error: {line}")
    assert captured.err.count("\n") == 1
