"""Sessions with early exit: the integers of all outputs, whatever leaves, batch and threads."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.graphs import pictures, random_outputs, tiny, two_outputs

from mulfree.errors import ArtifactError, ConfigError, DTypeError, ShapeError
from mulfree.runtime import EarlyExitSession, Exits, Graph, Session, artifact, save
from mulfree.runtime.exits import confidence
from mulfree.runtime.session import Backend

BACKENDS: tuple[Backend, ...] = ("native", "reference")
KINDS = ("probability", "entropy")


def three(seed: int = 0) -> Graph:
    """A random graph with three outputs of four classes."""
    return random_outputs(np.random.default_rng(seed), 3, 4)


def images(graph: Graph, count: int = 24) -> NDArray[Any]:
    shape = (count, *graph.input_value.shape)
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def middle(graph: Graph, array: NDArray[Any], kind: str) -> list[float]:
    """Thresholds at which about a half of the images leave at each exit."""
    outputs = list(Session(graph).run_all(array).values())[:-1]
    return [float(np.quantile(confidence(logits, kind), 0.5)) for logits in outputs]


def expected(
    graph: Graph, array: NDArray[Any], thresholds: list[float], kind: str
) -> tuple[NDArray[np.float32], list[int]]:
    """What each image gives by itself, from all outputs."""
    outputs = list(Session(graph).run_all(array).values())
    sure = [confidence(y, kind) >= limit for y, limit in zip(outputs, thresholds, strict=False)]
    exits = [([bool(s[row]) for s in sure] + [True]).index(True) for row in range(len(array))]
    return np.array([outputs[number][row] for row, number in enumerate(exits)]), exits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2, 4])
def test_each_image_takes_the_first_confident_output(seed: int, kind: str) -> None:
    graph = three(seed)
    array = images(graph)
    thresholds = middle(graph, array, kind)
    logits, exits = expected(graph, array, thresholds, kind)
    assert len(set(exits)) == 3
    for backend in BACKENDS:
        for threads in (1, 2, 3):
            session = EarlyExitSession(
                graph, thresholds=thresholds, confidence=kind, threads=threads, backend=backend
            )
            for part in (slice(None), slice(0, 1), slice(3, 10)):
                found = session.run_exits(array[part])
                assert found.exits.tolist() == exits[part]
                np.testing.assert_array_equal(found.logits, logits[part])
            # Of as little memory that threads share every image.
        small = EarlyExitSession(
            graph,
            thresholds=thresholds,
            confidence=kind,
            threads=2,
            backend=backend,
            memory=session.arena_bytes,
        )
        assert small.run_exits(array).exits.tolist() == exits


def test_images_that_never_leave_give_the_last_output() -> None:
    graph = three()
    array = images(graph)
    outputs = Session(graph).run_all(array)
    for backend in BACKENDS:
        session = EarlyExitSession(graph, thresholds=1.5, backend=backend)
        found = session.run_exits(array)
        np.testing.assert_array_equal(found.logits, list(outputs.values())[-1])
        assert set(found.exits.tolist()) == {2}
        found = EarlyExitSession(graph, thresholds=0, backend=backend).run_exits(array)
        np.testing.assert_array_equal(found.logits, next(iter(outputs.values())))
        assert set(found.exits.tolist()) == {0}
        for name, logits in session.run_all(array).items():
            np.testing.assert_array_equal(logits, outputs[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_and_memory_of_the_caller(backend: Backend) -> None:
    graph = three()
    session = EarlyExitSession(graph, thresholds=0.3, backend=backend)
    array = images(graph)
    logits, exits = session.run_exits(array)
    out = np.empty_like(logits)
    assert session.run_exits(array, out=out).logits is out
    np.testing.assert_array_equal(out, logits)
    none = session.run_exits(array[:0])
    assert (none.logits.shape, none.exits.shape) == ((0, 4), (0,))
    one = session.run_exits(array[0])
    assert one.exits.tolist() == exits[:1].tolist()
    floats = pictures(np.random.default_rng(8), graph, 6).astype(np.float32)
    native = EarlyExitSession(graph, thresholds=0.3).run_exits(floats)
    np.testing.assert_array_equal(session.run_exits(floats).logits, native.logits)
    with pytest.raises(ShapeError, match="`array` must have shape"):
        session.run_exits(array[:, :, :1])
    with pytest.raises(DTypeError, match="`array` must be a uint8 or float32 array"):
        session.run_exits(array.astype(np.int64))
    with pytest.raises(ShapeError, match="`out` must be contiguous of shape"):
        session.run_exits(array, out=out[:3])


def test_thresholds_of_the_file(tmp_path: Path) -> None:
    graph = replace(three(), exits=Exits(thresholds=(0.3, 0.4), confidence="entropy"))
    save(graph, tmp_path / "net.mulfree")
    session = EarlyExitSession(tmp_path / "net.mulfree", threads=1)
    assert session.exits == graph.exits
    other = EarlyExitSession(tmp_path / "net.mulfree", thresholds=[0.5, 2], threads=1)
    assert other.exits == Exits(thresholds=(0.5, 2.0), confidence="entropy")
    chosen = EarlyExitSession(tmp_path / "net.mulfree", confidence="probability")
    assert chosen.exits == Exits(thresholds=(0.3, 0.4), confidence="probability")
    copied = pickle.loads(pickle.dumps(other))
    assert (copied.exits, copied.threads) == (other.exits, 1)
    array = images(graph)
    np.testing.assert_array_equal(copied.run_exits(array).exits, other.run_exits(array).exits)


@pytest.mark.parametrize(
    ("graph", "options", "message"),
    [
        (tiny(), {"thresholds": 0.5}, "must have several outputs of one size, got {'logits': 2}"),
        (two_outputs(), {"thresholds": 0.5}, "must have several outputs of one size"),
        (three(), {}, "`thresholds` must be given, as the file holds none"),
        (three(), {"thresholds": [0.5]}, "`thresholds` must be one number of at least 0, or 2"),
        (three(), {"thresholds": -1}, "`thresholds` must be one number of at least 0, or 2"),
        (three(), {"thresholds": "ab"}, "`thresholds` must be one number of at least 0, or 2"),
        (three(), {"thresholds": [0.5, np.nan]}, "`thresholds` must be one number of at least 0"),
        (three(), {"thresholds": 1, "confidence": "x"}, "`confidence` must be one of entropy"),
        (three(), {"thresholds": 1, "threads": 0}, "`threads` must be an int in 1"),
    ],
)
def test_what_cannot_be(graph: Graph, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EarlyExitSession(graph, **options)


def test_entries_are_merged(tmp_path: Path) -> None:
    save({"small": tiny(), "large": tiny()}, tmp_path / "net.mulfree")
    path = tmp_path / "net.mulfree"
    session = EarlyExitSession(path, entries=["small", "large"], thresholds=1.5)
    assert list(session.graph.output_sizes) == ["small", "large"]
    array = images(tiny())
    found = session.run_exits(array)
    np.testing.assert_array_equal(found.logits, Session(tiny()).run(array))
    with pytest.raises(ConfigError, match="`entry` must be one of large, small, got 'none'"):
        EarlyExitSession(path, entries=["small", "none"], thresholds=1)
    with pytest.raises(ConfigError, match="`graphs` must hold a graph, got none"):
        EarlyExitSession(path, entries=[], thresholds=1)
    with pytest.raises(ArtifactError, match="must be a file with content"):
        EarlyExitSession(tmp_path / "none", thresholds=1)


def test_the_program_checks_its_arguments() -> None:
    graph = three()
    program: Any = Session(graph)._programs.ready()
    array = images(graph, 2)
    out, taken = np.empty((2, 4), np.float32), np.empty(2, np.int64)
    program.run_exits(array, out, taken, (0.5, 0.5), False, False, 1)
    wrong = {
        "`thresholds` must be one fewer than the outputs": (array, out, taken, (0.5,)),
        "`taken` must have as many elements as images": (array, out, taken[:1], (0.5, 0.5)),
        "`output` must have shape": (array, out[:, :3].copy(), taken, (0.5, 0.5)),
        "`input` must have shape": (array[:, :, 1:].copy(), out, taken, (0.5, 0.5)),
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=f"run_exits: {message}"):
            program.run_exits(*arguments, False, False, 1)
    other: Any = Session(two_outputs())._programs.ready()
    with pytest.raises(ValueError, match="`program` must have outputs of one size"):
        other.run_exits(images(two_outputs(), 2), out, taken, (0.5,), False, False, 1)


def test_bytes_of_a_session_are_those_of_the_file() -> None:
    graph = replace(three(), exits=Exits(thresholds=(0.25, 0.5)))
    assert artifact.to_bytes(EarlyExitSession(graph).graph) == artifact.to_bytes(graph)
