"""Every kind of node against every consumer, on its samples; a toy is one folder and one line."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from tests.native import integer_reference as oracle
from tests.runtime.files import resealed
from tests.runtime.graphs import around, pictures

from mulfree import nodes
from mulfree._native import core
from mulfree.errors import MAX_MESSAGE, ArtifactError, BackendUnavailableError
from mulfree.export.onnx.integers import to_model
from mulfree.nodes import NODES, Node, facet, get_node
from mulfree.nodes.fields import FieldCheck, Integer, Integers, Tensor, Text, Texts, field_checks
from mulfree.nodes.node import Values
from mulfree.nodes.sampling import Sample, samples
from mulfree.runtime import Graph, Session, artifact, reference

HERE, FOLDER = Path(__file__).parent, Path(nodes.__file__).parent
ISAS = core().int8_isas()
KERNELS = [op for op in NODES if op in core().node_kernels()]
DOCUMENT = (Path(__file__).parents[2] / "docs" / "runtime.md").read_text()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder `toy` among the nodes, and the line."""
    monkeypatch.setattr(nodes, "__path__", [*nodes.__path__, str(HERE)])
    monkeypatch.setattr(nodes, "NODES", (*NODES, "toy"))


@pytest.fixture(params=[*NODES, "toy"])
def op(request: pytest.FixtureRequest) -> str:
    if request.param == "toy":
        request.getfixturevalue("toy")
    return str(request.param)


def some(op: str, count: int) -> Iterator[tuple[Sample, Graph, NDArray[Any]]]:
    """Samples, graphs around them and batches of pictures."""
    rng = np.random.default_rng(len(op))
    for sample in itertools.islice(samples(op, rng), count):
        graph = around(sample, rng)
        yield sample, graph, pictures(rng, graph, 2)


def check_line(error: ArtifactError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) <= MAX_MESSAGE


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", KERNELS)
def test_native_kernels_equal_the_reference(
    op: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULFREE_ISA", isa)
    for number, (_, graph, given) in enumerate(some(op, 40)):
        expected = reference.run(graph, given)
        session = Session(graph, threads=1 + number % 3)
        # Twice: values of a run must not reach the next.
        for _ in range(2):
            np.testing.assert_array_equal(session.run(given), expected)


def test_onnx_equals_the_reference(op: str) -> None:
    if facet(op, "onnx") is None:
        pytest.skip("the kind has no ONNX form")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    for number, (_, graph, given) in enumerate(some(op, 24)):
        optimised = number % 4 > 0
        level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        options.graph_optimization_level = level
        pixels = given.dtype == np.uint8
        session = onnxruntime.InferenceSession(
            to_model(graph, pixels=pixels).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        (logits,) = session.run(None, {"pixels" if pixels else "images": given})
        np.testing.assert_array_equal(logits, reference.run(graph, given))


def test_the_samples_are_not_constant(op: str) -> None:
    """Their results are no bounds of a clamp alone, and their fields differ."""
    seen, fields = set(), set()
    for sample, graph, given in some(op, 24):
        if sample.output is not None:
            seen |= set(np.unique(reference.trace(graph, given)[sample.output.name]))
        fields.add(artifact.to_bytes(graph))
    assert len(fields) == 24
    assert len(seen) > 100 or get_node(op).ends


Arrays = dict[str, NDArray[Any]]


def _fixed(node: Any) -> oracle.Fixed:
    clamp = node.clamp_min, node.clamp_max
    return oracle.Fixed(node.multiplier, node.offset, node.shift, *clamp)


def _layer(node: Any, values: Values, made: Arrays) -> NDArray[Any]:
    geometry = node.stride, node.padding, node.groups, node.residual_multiplier, node.padding_excess
    layer = oracle.Window(node.op, node.weight, _fixed(node), *geometry)
    added = None if node.residual is None else made[node.residual]
    return layer(made[node.input], values[node.input].zero_point, added)


def _concat(node: Any, values: Values, made: Arrays) -> NDArray[Any]:
    stacked = [made[name][..., c] for name in node.inputs for c in range(made[name].shape[-1])]
    return np.stack([stacked[c] for c in node.order], axis=-1)


def _pad(node: Any, values: Values, made: Arrays) -> NDArray[Any]:
    x = made[node.input]
    height, width, channels = x.shape
    shape = height + node.top + node.bottom, width + node.left + node.right, channels
    padded = np.full(shape, values[node.input].zero_point)
    padded[node.top : node.top + height, node.left : node.left + width] = x
    return padded


def _add(node: Any, values: Values, made: Arrays) -> NDArray[Any]:
    others = made[node.other].astype(np.int64) * node.other_multiplier
    return _fixed(node)(made[node.input], others)


def _gate(node: Any, values: Values, made: Arrays) -> NDArray[Any]:
    products = np.ones((), np.int64)
    for name in (node.input, node.gate):
        products = products * np.subtract(made[name], values[name].zero_point, dtype=np.int64)
    return _fixed(node)(products)


ORACLES: dict[str, Callable[[Any, Values, Arrays], NDArray[Any]]] = {
    "adder2d": _layer,
    "conv2d": _layer,
    "max_pool": lambda node, values, made: oracle.max_pool(
        made[node.input], node.kernel, node.stride, node.padding, node.minimum
    ),
    "mean": lambda node, values, made: _fixed(node)(
        oracle.window_totals(made[node.input], node.kernel, node.stride)
    ),
    "add": _add,
    "gate": _gate,
    "lut": lambda node, values, made: oracle.lut(made[node.input], node.table),
    "pad": _pad,
    "repeat": lambda node, values, made: np.kron(
        made[node.input], np.ones((node.factor, node.factor, 1), np.uint8)
    ),
    "concat": _concat,
    "linear": lambda node, values, made: oracle.linear(
        made[node.input], node.weight, node.scale, node.bias
    ),
}
"""The arithmetic again, written without a look at the definitions, for one image `[H, W, C]`."""


@pytest.mark.parametrize("op", ORACLES)
def test_the_reference_equals_another_author(op: str) -> None:
    for sample, graph, given in some(op, 40):
        made = reference.trace(graph, given)
        output = reference.evaluate(sample.node, graph.by_name, made)
        for image in range(len(given)):
            arrays = {name: array[image] for name, array in made.items()}
            expected = ORACLES[op](sample.node, graph.by_name, arrays)
            np.testing.assert_array_equal(output[image], expected)


def test_files_are_read_as_they_were_written(op: str) -> None:
    for _, graph, given in some(op, 10):
        content = artifact.to_bytes(graph)
        again = artifact.from_bytes(content)
        assert artifact.to_bytes(again) == content
        np.testing.assert_array_equal(reference.run(again, given), reference.run(graph, given))


@pytest.mark.parametrize("sealed", [False, True])
def test_one_wrong_bit_is_refused_or_runs(op: str, sealed: bool) -> None:
    rng = np.random.default_rng(0)
    backend: Any = "native" if op in KERNELS else "reference"
    for _, graph, given in some(op, 3):
        content = artifact.to_bytes(graph)
        for position in rng.integers(0, 8 * len(content), 40):
            damaged = bytearray(content)
            damaged[position // 8] ^= 1 << (position % 8)
            try:
                other = artifact.from_bytes(resealed(bytes(damaged)) if sealed else damaged)
            except ArtifactError as error:
                check_line(error)
            else:
                assert sealed or artifact.to_bytes(other) == content
                if other.input_value.shape == graph.input_value.shape:
                    Session(other, backend=backend, threads=1).run(given)


def test_counts_are_not_negative(op: str) -> None:
    for sample, graph, _ in some(op, 10):
        node = sample.node
        count = node.count(graph.by_name)
        assert min(count.mul, count.add) >= 0
        assert node.work(graph.by_name) > count.mul + count.add
        assert set(node.operations(graph.by_name)) <= {"int8", "int32", "fp32"}
        assert min(node.border(graph.by_name)) >= 0


def wrong(check: FieldCheck, value: Any) -> Iterator[Any]:
    """Values that a field must not have: of another type, and outside of the range or shape."""
    yield object()
    match check:
        case Integer():
            yield from (check.low - 1, check.high + 1, float(value), np.int64(value), True)
        case Integers():
            yield from (value[:1], [*value], (*value, 1), (-1, -1), (2**15 + 1,) * 2)
        case Text():
            yield from ("", "a\nb", "x" * 201, b"x")
        case Texts():
            yield from (["x"], ("",), (1,))
        case Tensor():
            yield value[None]
            yield value.astype(np.float64)
            yield np.concatenate([value, value])
            yield value[:0]


def test_a_wrong_field_is_refused_in_one_line(op: str) -> None:
    for sample, graph, _ in some(op, 3):
        for name, check in field_checks(type(sample.node)).items():
            for value in wrong(check, getattr(sample.node, name)):
                changed = replace(sample.node, **{name: value})
                listed = tuple(changed if node is sample.node else node for node in graph.nodes)
                with pytest.raises(ArtifactError, match=r"^Graph: ") as caught:
                    replace(graph, nodes=listed)
                check_line(caught.value)


def test_a_folder_holds_one_kind(op: str) -> None:
    kind = get_node(op)
    assert issubclass(kind, Node)
    assert kind.op == op
    assert all(facet(op, name) for name in ("reference", "samples"))
    assert facet(op, "nonsense") is None
    folder = HERE / "toy" if op == "toy" else FOLDER / op
    for file in folder.glob("*.py"):
        for item in ast.walk(ast.parse(file.read_text())):
            if isinstance(item, ast.ImportFrom):
                parts = (item.module or "").split(".")
                assert not set(parts[2:3]) & (set(NODES) - {op}) or parts[1] != "nodes", file


@pytest.mark.parametrize("op", NODES)
def test_the_document_has_a_row(op: str) -> None:
    assert sum(f"`{op}`" in line for line in DOCUMENT.splitlines() if line.startswith("|")) == 2


def test_an_unknown_kind() -> None:
    line = r"^get_node: `op` must be one of .*, got 'maxpool'; did you mean 'max_pool'\?$"
    with pytest.raises(ArtifactError, match=line):
        get_node("maxpool")


def test_definitions_load_neither_torch_nor_onnx() -> None:
    code = (
        "import sys; from mulfree import nodes\n"
        "assert 'mulfree.nodes.adder2d' not in sys.modules\n"
        "for op in nodes.NODES: nodes.get_node(op), nodes.facet(op, 'reference')\n"
        "sys.exit(bool({'torch', 'onnx'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("toy")
def test_a_kind_without_a_native_kernel_runs_by_the_reference() -> None:
    _, graph, given = next(some("toy", 1))
    line = "^Session: `backend` must be 'reference' for the node .*: 'toy' has no native kernel$"
    with pytest.raises(BackendUnavailableError, match=line):
        Session(graph)
    got = Session(artifact.to_bytes(graph), backend="reference").run(given)
    np.testing.assert_array_equal(got, reference.run(graph, given))
