from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.runtime.graphs import array, pictures, random_graph, tiny, tiny_parts

from mulfree._native import core
from mulfree.errors import (
    ArtifactError,
    BackendUnavailableError,
    ConfigError,
    DTypeError,
    ShapeError,
)
from mulfree.runtime import Graph, Session, reference, save
from mulfree.runtime import session as session_module
from mulfree.runtime.graph import Input, Linear, Node, Value
from mulfree.runtime.session import default_threads

PICTURE = np.arange(9, dtype=np.uint8).reshape(1, 3, 3)
BY_HAND = [[33.0, -89.0]]


def test_tiny_by_hand(tmp_path: Path) -> None:
    save(tiny(), tmp_path / "tiny")
    for session in (
        Session(tiny()),
        Session(tmp_path / "tiny"),
        Session(str(tmp_path / "tiny"), threads=2),
        Session(tiny(), backend="reference"),
    ):
        assert session.run(PICTURE).tolist() == BY_HAND
        assert session.run(np.stack([PICTURE] * 3)).tolist() == BY_HAND * 3


@pytest.mark.parametrize("seed", range(10))
def test_native_equals_the_reference(seed: int) -> None:
    """Every logit of 60 graphs a seed, over 200 nodes of random geometry, each a batch of 3."""
    rng = np.random.default_rng(seed)
    for number in range(60):
        graph = random_graph(rng)
        session = Session(graph, threads=1 + number % 3)
        for _ in range(2):
            given = pictures(rng, graph, 1 + number % 3)
            np.testing.assert_array_equal(session.run(given), reference.run(graph, given))


def shown(graph: Graph, index: int) -> Graph:
    """The graph up to the node numbered `index`, with logits that are the integers it makes."""
    nodes = graph.nodes[: index + 1]
    name = nodes[-1].output
    assert name is not None
    taps = graph.by_name[name].elements
    read = {graph.input.value, *(node.output for node in nodes)}
    last = Linear(
        name="shown",
        input=name,
        weight=np.eye(taps, dtype=np.int8),
        scale=np.ones(taps, np.float32),
        bias=np.zeros(taps, np.float32),
    )
    values = tuple(value for value in graph.values if value.name in read)
    return Graph(name="shown", input=graph.input, values=values, nodes=(*nodes, last))


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", ""])
def test_every_integer_of_every_node(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits mix many integers: here each is seen by itself, on every instruction set."""
    if isa and isa not in core().supported_isas():
        pytest.skip(f"this processor has no {isa}")
    monkeypatch.setenv("MULFREE_ISA", isa)
    rng = np.random.default_rng(100)
    nodes = 0
    while nodes < 150:
        graph = random_graph(rng)
        given = pictures(rng, graph, 2)
        made = reference.trace(graph, given)
        for index, node in enumerate(graph.nodes[:-1]):
            assert node.output is not None
            if made[node.output][0].size <= 500:
                got = Session(shown(graph, index), threads=1).run(given)
                np.testing.assert_array_equal(got, made[node.output].reshape(2, -1))
                nodes += 1


def test_threads_do_not_change_the_result() -> None:
    rng = np.random.default_rng(7)
    graph = random_graph(rng, 6)
    given = pictures(rng, graph, 5)
    expected = Session(graph, threads=1).run(given)
    for threads in (2, 3):
        np.testing.assert_array_equal(Session(graph, threads=threads).run(given), expected)


def test_python_threads_take_turns() -> None:
    rng = np.random.default_rng(8)
    graph = random_graph(rng, 4)
    session = Session(graph, threads=1)
    batches = [rng.normal(size=(n, *graph.input_value.shape)).astype("f4") for n in (1, 2, 3, 4)]
    expected = [reference.run(graph, batch) for batch in batches]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            if not np.array_equal(session.run(batches[number]), expected[number]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_shapes_of_input_and_output(backend: Any) -> None:
    session = Session(tiny(), backend=backend)
    assert session.run(PICTURE[None][:0]).shape == (0, 2)
    assert session.run(PICTURE).shape == (1, 2)
    out = np.full((2, 2), np.nan, np.float32)
    assert session.run(np.stack([PICTURE] * 2), out=out) is out
    assert out.tolist() == BY_HAND * 2
    # Not contiguous: every other row of a larger picture.
    larger = np.repeat(PICTURE, 2, axis=1)
    assert session.run(larger[:, ::2]).tolist() == BY_HAND
    frozen = PICTURE.copy()
    frozen.flags.writeable = False
    assert session.run(frozen).tolist() == BY_HAND


def test_floats_are_the_normalised_picture() -> None:
    # Steps of 0.5 around the zero 2: the real number (q - 2) / 2 becomes q.
    floats = ((PICTURE.astype(np.float32) - 2) / 2).astype(np.float32)
    session = Session(tiny())
    for _ in range(2):
        assert session.run(floats).tolist() == BY_HAND
    assert session.run(np.stack([floats] * 3)[:, :, ::1]).tolist() == BY_HAND * 3
    assert session.run(np.asfortranarray(np.stack([floats] * 2))).tolist() == BY_HAND * 2


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (1, 1, 4, 3), (1, 1, 1, 3, 3)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ShapeError, match=r"^Session.run: `array` must have shape \[N, 1, 3, 3\], g"
    ):
        Session(tiny()).run(np.zeros(shape, np.uint8))


def test_wrong_dtype() -> None:
    with pytest.raises(
        DTypeError, match=r"^Session.run: `array` must be a uint8 or float32 array, got float64$"
    ):
        Session(tiny()).run(PICTURE / 2)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros((2, 2), "f4"), ShapeError, r"contiguous of shape \[1, 2\], got \[2, 2\]"),
        (np.zeros((1, 4), "f4")[:, ::2], ShapeError, r"contiguous of shape \[1, 2\], got \[1, 2\]"),
        (np.zeros((1, 2)), DTypeError, "a writable float32 array, got float64"),
        ([[0.0, 0.0]], DTypeError, "a writable float32 array, got list"),
    ],
)
def test_wrong_output(out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^Session.run: `out` must be " + message):
        Session(tiny()).run(PICTURE, out=out)


def test_read_only_output() -> None:
    out = np.zeros((1, 2), np.float32)
    out.flags.writeable = False
    with pytest.raises(DTypeError, match="must be a writable float32 array, got float32"):
        Session(tiny()).run(PICTURE, out=out)


def test_a_graph_that_is_not_valid(tmp_path: Path) -> None:
    (tmp_path / "wrong").write_bytes(b"wrong")
    with pytest.raises(ArtifactError, match=r"^runtime.load: `path` must have more than"):
        Session(tmp_path / "wrong")


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.0, True, "2"])
def test_wrong_threads(threads: Any) -> None:
    with pytest.raises(ConfigError, match=r"^Session: `threads` must be an int in 1..1024, got "):
        Session(tiny(), threads=threads)


def test_wrong_backend() -> None:
    with pytest.raises(
        ConfigError, match=r"`backend` must be one of native, reference, got 'nativ"
    ):
        Session(tiny(), backend=cast(Any, "nativ"))


def test_an_instruction_set_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULFREE_ISA", "avx1024")
    with pytest.raises(BackendUnavailableError, match="avx1024"):
        Session(tiny())


def test_no_kernel_for_an_unknown_node() -> None:
    with pytest.raises(TypeError, match="no kernel for Node"):
        session_module._append(cast(Any, None), Node(name="n", input="x", output="x"), {"x": 0})


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("1", 1), ("3", 3), ("2,4", 2), (" 2 ", 2), ("64", 4), ("", 4), ("0", 4), ("many", 4)],
)
def test_default_threads(variable: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert default_threads() == expected
    assert Session(tiny()).threads == expected


def test_default_threads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5000)
    assert default_threads() == 1024
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_threads() == 1


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_profile(backend: Any) -> None:
    rows = Session(tiny(), backend=backend).profile(np.stack([PICTURE] * 2), runs=3)
    assert [(row.name, row.op) for row in rows] == [
        ("input", "input"),
        ("adder", "adder2d"),
        ("mean", "mean"),
        ("fc", "linear"),
    ]
    assert [(row.mul, row.add) for row in rows] == [(0, 0), (4, 72), (0, 10), (6, 6)]
    assert all(row.seconds >= 0 and row.kernel for row in rows)
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_profile_of_floats() -> None:
    rows = Session(tiny()).profile(PICTURE.astype(np.float32))
    assert len(rows) == 4


def test_profile_needs_a_picture() -> None:
    with pytest.raises(
        ShapeError, match=r"^Session.profile: `array` must hold a picture, got \[0, "
    ):
        Session(tiny()).profile(PICTURE[None][:0])
    with pytest.raises(ConfigError, match=r"^Session.profile: `runs` must be at least 1, got 0"):
        Session(tiny()).profile(PICTURE, runs=0)


def test_a_run_allocates_nothing() -> None:
    """Beyond the output, that is: with `out` the process keeps its size."""
    import tracemalloc

    graph = _large()
    session = Session(graph, threads=1)
    given = np.zeros((4, *graph.input_value.shape), np.uint8)
    for batch in (given, given.astype(np.float32)):
        out = session.run(batch)
        tracemalloc.start()
        session.run(batch, out=out)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < batch.nbytes / 4


def _large() -> Graph:
    parts = tiny_parts()
    x = Value(name="x", shape=(8, 64, 64), scale=0.5, zero=2)
    given = Input(
        value="x",
        table=np.zeros((8, 256), np.uint8),
        mean=(0.5,) * 8,
        std=(0.5,) * 8,
        resize=64,
    )
    adder, mean, fc = parts["nodes"]
    adder = replace(adder, weight=np.zeros((2, 1, 1, 8), np.uint8))
    mean = replace(mean, kernel=(64, 64))
    y = replace(parts["values"][1], shape=(2, 64, 64))
    fc = replace(fc, scale=array([0, 0], "float32"))
    return Graph(
        name="large", input=given, values=(x, y, parts["values"][2]), nodes=(adder, mean, fc)
    )


def test_importing_loads_numpy_only() -> None:
    code = (
        "import sys, mulfree.runtime as runtime\n"
        "import mulfree.runtime.pictures\n"
        "assert callable(runtime.Session)\n"
        "heavy = {'torch', 'safetensors', 'PIL', 'lightning', 'rich', 'onnx', 'yaml', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"
