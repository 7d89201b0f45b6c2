from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mulfree.bench import candidate_process
from mulfree.bench.candidates import CNNS, Candidate, make_candidates
from mulfree.bench.correctness import BenchmarkError
from mulfree.bench.suites import BenchOptions, runtime
from mulfree.errors import BackendUnavailableError
from mulfree.runtime import load, reference

onnx = pytest.importorskip("onnx", reason="needs mulfree[onnx]")
pytest.importorskip("onnxruntime", reason="needs mulfree[onnx]")
pytest.importorskip("onnxscript", reason="needs mulfree[onnx]")

SIZE = (1, 28, 28)
OWN = ("mulfree int8 adder2d", "mulfree int8 conv2d")


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> list[Candidate]:
    return make_candidates(
        "lenet5_bn",
        "adder2d",
        tmp_path_factory.mktemp("files"),
        input_size=SIZE,
        num_classes=7,
    )


def test_one_architecture_in_five_files(candidates: list[Candidate]) -> None:
    assert [candidate.name for candidate in candidates] == [*OWN, *CNNS]
    for candidate in candidates:
        logits = candidate.runner((3, *SIZE), 1)()
        assert (logits.shape, logits.dtype) == ((3, 7), np.float32)
    nodes = [{node.op for node in load(candidate.path).nodes} for candidate in candidates[:2]]
    assert "adder2d" in nodes[0]
    assert "adder2d" not in nodes[1]
    # ONNX Runtime's own: every layer between a pair of conversions, weights in int8 by channel.
    static = onnx.load(candidates[4].path).graph
    operators = {node.op_type for node in static.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= operators
    weights = [t for t in static.initializer if t.data_type == onnx.TensorProto.INT8]
    assert [7, 84, 1, 1] in [list(tensor.dims) for tensor in weights]
    assert candidates[4].path.stat().st_size < 0.5 * candidates[3].path.stat().st_size


def test_an_integer_that_is_wrong(
    candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.check(candidates, SIZE)
    right = reference.run
    monkeypatch.setattr(reference, "run", lambda *operands: right(*operands) + np.float32(0.5))
    line = "mulfree int8 adder2d must equal the reference, got logits that differ by up to 0.5"
    with pytest.raises(BenchmarkError, match=line):
        runtime.check(candidates, SIZE)


def test_another_network_as_onnx(candidates: list[Candidate]) -> None:
    other = replace(candidates[4], name="onnxruntime fp32")
    line = r"bench: onnxruntime fp32 must agree with torch fp32 to 0.0001, got \d"
    with pytest.raises(BenchmarkError, match=line):
        runtime.check([*candidates[:3], other, candidates[4]], SIZE)


def test_times_are_compared_with_the_fastest_convolutional_network(
    candidates: list[Candidate],
) -> None:
    threads = torch.get_num_threads()
    entry = runtime.bench_networks(candidates, batch=2, threads=1, input_size=SIZE, rounds=2)
    assert torch.get_num_threads() == threads
    timings = entry["timings"]
    assert list(timings) == [*OWN, *CNNS]
    assert all(timing["samples"] == 2 for timing in timings.values())
    best = entry["fastest_cnn"]
    assert timings[best]["median_s"] == min(timings[name]["median_s"] for name in CNNS)
    assert list(entry["times_as_fast"]) == list(OWN)
    for name, times in entry["times_as_fast"].items():
        assert times == pytest.approx(timings[best]["median_s"] / timings[name]["median_s"])
    for name, rate in entry["images_per_s"].items():
        assert rate == 2 / timings[name]["median_s"]


def test_memory_is_that_of_a_process_without_torch(candidates: list[Candidate]) -> None:
    memory = runtime.memory_of(candidates[0], batch=1, threads=1, input_size=SIZE)
    assert memory.keys() == {"before", "peak", "added"}
    # Torch alone takes twice as much.
    assert 0 < memory["peak"] < 100 * 2**20


def test_every_library_measures_its_memory(candidates: list[Candidate]) -> None:
    for candidate in candidates[1:4]:
        settings = {"library": candidate.library, "path": str(candidate.path)}
        argument = json.dumps({**settings, "shape": [1, *SIZE], "threads": 1})
        memory = json.loads(candidate_process.main(argument))
        assert memory.keys() == {"before", "peak", "added"}


LARGE, SMALL = ((3, 224, 224), 1000), ((3, 32, 32), 10)


@pytest.mark.parametrize(
    ("quick", "networks", "timed"),
    [
        (
            False,
            {
                **dict.fromkeys(("resnet18", "resnet34", "resnet50"), LARGE),
                **dict.fromkeys(("resnet20", "resnet32", "vgg_small"), SMALL),
            },
            [(1, 1, 21), (1, 2, 21), (32, 1, 7), (32, 2, 7)],
        ),
        (True, {"resnet20": SMALL}, [(1, 1, 5)]),
    ],
)
def test_all_networks_at_their_sizes_or_one_in_few_rounds(
    quick: bool, networks: Any, timed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}
    asked: list[tuple[int, ...]] = []

    def make(model: str, operator: str, folder: Path, **options: Any) -> list[Any]:
        made[model] = (options["input_size"], options["num_classes"])
        return []

    def time(candidates: Any, **options: Any) -> dict[str, Any]:
        asked.append((options["batch"], options["threads"], options["rounds"]))
        return {}

    monkeypatch.setattr(runtime, "make_candidates", make)
    monkeypatch.setattr(runtime, "check", lambda candidates, size: None)
    monkeypatch.setattr(runtime, "bench_networks", time)
    options, parts = BenchOptions(quick=quick), list[str]()
    runtime.run(options, parts.append)
    assert len(parts) == runtime.SUITE.parts(options)
    assert list(made.items()) == list(networks.items())
    assert asked == timed * len(networks)


def test_onnx_runtime_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = r"bench: `runtime` needs onnxruntime: pip install mulfree\[onnx\]"
    with pytest.raises(BackendUnavailableError, match=line):
        runtime.check_options(BenchOptions())
