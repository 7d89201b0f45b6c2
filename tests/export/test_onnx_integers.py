from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.graphs import heavy, lined_up, network

from mulfree.errors import ConfigError
from mulfree.export import to_onnx
from mulfree.nodes import Value
from mulfree.nodes.adder2d import Adder2d
from mulfree.nodes.conv2d import Conv2d
from mulfree.nodes.mean import Mean
from mulfree.runtime import Graph, reference

onnx = pytest.importorskip("onnx", reason="needs mulfree[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs mulfree[onnx]")

# Only now that onnx is known to be there.

from mulfree.export.onnx import integers  # noqa: E402

LEVELS = onnxruntime.GraphOptimizationLevel


def exported(graph: Graph, path: Path, *, optimised: bool = True, pixels: bool = True) -> Any:
    """A session of ONNX Runtime."""
    to_onnx(graph, path / "model.onnx", pixels=pixels)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    level = LEVELS.ORT_ENABLE_ALL if optimised else LEVELS.ORT_DISABLE_ALL
    options.graph_optimization_level = level
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(path / "model.onnx", options, providers=providers)


def pixels_of(graph: Graph, images: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (images, *graph.input_value.shape), np.uint8)


@pytest.mark.parametrize("optimised", [True, False])
def test_a_network_equals_the_reference(optimised: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graph = network()
    session = exported(graph, tmp_path, optimised=optimised)
    pixels = pixels_of(graph, 5, rng)
    (logits,) = session.run(None, {"pixels": pixels})
    assert (logits.shape, logits.dtype) == ((5, 10), np.float32)
    np.testing.assert_array_equal(logits, reference.run(graph, pixels))


# Its padding converts a default of not-a-number that is then not used.
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_the_standards_own_evaluator(tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(0)
    graph = network()
    to_onnx(graph, tmp_path / "model.onnx")
    pixels = pixels_of(graph, 2, rng)
    (logits,) = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"pixels": pixels})
    np.testing.assert_array_equal(logits, reference.run(graph, pixels))


def test_normalised_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graph = network()
    scale = np.float32(graph.input_value.scale)
    images = rng.normal(0, 4, (4, *graph.input_value.shape)).astype(np.float32)
    # Halves, which go to even, and what is no number or far out of range.
    images[0, 0, 0, :6] = np.array([0.5, 1.5, -0.5, np.nan, np.inf, -np.inf]) * scale
    session = exported(graph, tmp_path, pixels=False)
    (logits,) = session.run(None, {"images": images})
    np.testing.assert_array_equal(logits, reference.run(graph, images))


@pytest.mark.parametrize("pixel", [0, 255])
@pytest.mark.parametrize(
    ("kind", "tap"), [(Adder2d, 0), (Adder2d, 255), (Conv2d, -128), (Conv2d, 127)]
)
def test_the_longest_sums_of_extreme_numbers(
    kind: type[Adder2d] | type[Conv2d], tap: int, pixel: int, tmp_path: Path
) -> None:
    x = Value(name="x", shape=(1000, 5, 5), scale=1.0, zero_point=0)
    y = replace(x, name="y", shape=(2, 1, 1))
    shift, term = 31, -abs(pixel - tap) if kind is Adder2d else pixel * tap
    multiplier = np.array([2**31 - 1, -(2**31)], np.int32)
    node = kind(
        name="layer",
        input="x",
        output="y",
        weight=np.full((2, 5, 5, 1000), tap, np.uint8 if kind is Adder2d else np.int8),
        multiplier=multiplier,
        # A sum and its limits: the result is where it is expected, not at a bound of the clamp.
        offset=(100 << shift) - multiplier.astype(np.int64) * (25_000 * term),
        shift=shift,
        clamp_min=0,
        clamp_max=255,
    )
    graph = lined_up(x, node, values=(y,))
    session = exported(graph, tmp_path)
    pixels = np.full((1, 1000, 5, 5), pixel, np.uint8)
    assert session.run(None, {"pixels": pixels})[0].tolist() == [[100, 100]]
    assert reference.run(graph, pixels).tolist() == [[100, 100]]


@pytest.mark.parametrize(
    ("offset", "quantised"), [(-7, 0), (-1, 0), (0, 0), (1, 1), (2, 1), (3, 2)]
)
def test_halves_are_rounded_up(offset: int, quantised: int, tmp_path: Path) -> None:
    x = Value(name="x", shape=(1, 1, 1), scale=1.0, zero_point=0)
    window: Any = {"kernel": (1, 1), "stride": (1, 1)}
    factors: Any = {"multiplier": 0, "offset": offset, "shift": 1, "clamp_min": 0, "clamp_max": 255}
    mean = Mean(name="mean", input="x", output="y", **window, **factors)
    graph = lined_up(x, mean, values=(replace(x, name="y"),))
    pixels = pixels_of(graph, 1, np.random.default_rng(0))
    for logits in (
        exported(graph, tmp_path).run(None, {"pixels": pixels})[0],
        reference.run(graph, pixels),
    ):
        assert logits.tolist() == [[quantised]]


def test_what_the_file_says(tmp_path: Path) -> None:
    graph = network()
    to_onnx(graph, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert (model.ir_version, model.producer_name, model.graph.name) == (8, "mulfree", "random")
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert facts == {
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "resize": 16,
        "classes": [f"class {index}" for index in range(10)],
    }


def test_no_tensor_is_larger_than_the_windows_and_the_output(tmp_path: Path) -> None:
    to_onnx(heavy(8, 16), tmp_path / "model.onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx"))
    sizes = [
        np.prod([size.dim_value or 1 for size in value.type.tensor_type.shape.dim])
        for value in model.graph.value_info
    ]
    assert max(sizes) == 9 * 16 * 64


def test_a_kind_of_node_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    monkeypatch.setattr(integers, "facet", lambda op, name: None)
    line = "^to_onnx: `model` must have nodes with an ONNX form alone, got 'conv2d'$"
    with pytest.raises(ConfigError, match=line):
        integers.to_model(graph, pixels=True)
