"""Sessions on the file of a network of several depths."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.graphs import pictures, tiny

from mulfree.errors import ConfigError
from mulfree.nodes.linear import Linear
from mulfree.runtime import Graph, Session, artifact, load, save

*_NODES, _LAST = tiny().nodes
assert isinstance(_LAST, Linear)
_OTHER = replace(_LAST, weight=_LAST.weight[::-1].copy())
GRAPHS = {"short": tiny(), "long": replace(tiny(), nodes=(*_NODES, _OTHER))}
BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(GRAPHS, tmp_path / "depths")
    return tmp_path / "depths"


def content(graph: Graph) -> bytes:
    return artifact.to_bytes(graph)


def logits(graph: Graph, images: Any) -> list[list[float]]:
    found: list[list[float]] = Session(graph, backend="reference").run(images).tolist()
    return found


@BACKENDS
def test_the_depth_changes_without_loading_again(path: Path, backend: Any) -> None:
    session = Session(path, depth="short", backend=backend)
    path.unlink()
    assert session.depths == ("short", "long")
    images = pictures(np.random.default_rng(0), GRAPHS["short"], 3)
    expected = {name: logits(graph, images) for name, graph in GRAPHS.items()}
    assert expected["short"] != expected["long"]
    for name in ("short", "long", "short", "short"):
        session.depth = name
        assert session.depth == name
        assert content(session.graph) == content(GRAPHS[name])
        assert session.arena_bytes == Session(GRAPHS[name], backend=backend).arena_bytes
        assert session.run(images).tolist() == expected[name]
        assert session.run_all(images)["logits"].tolist() == expected[name]
        assert session.run(images.astype(np.float32)).shape == (3, GRAPHS[name].outputs)
        rows = session.profile(images, runs=1)
        assert [row.name for row in rows[1:]] == [node.name for node in GRAPHS[name].nodes]


@BACKENDS
def test_copies_have_all_depths(path: Path, backend: Any) -> None:
    session = Session(path, depth="short", backend=backend)
    session.depth = "long"
    images = pictures(np.random.default_rng(0), GRAPHS["long"], 1)
    for made in (pickle.loads(pickle.dumps(session)), copy.deepcopy(session)):
        assert made.depth == "long"
        made.depth = "short"
        assert made.run(images).tolist() == logits(GRAPHS["short"], images)
    assert session.depth == "long"


def test_any_form_of_a_file(path: Path) -> None:
    file = path.read_bytes()
    for source in (file, bytearray(file), io.BytesIO(file), path, str(path)):
        assert content(Session(source, depth="long").graph) == content(GRAPHS["long"])
    # A file of one network has one entry point.
    assert Session(artifact.to_bytes(tiny()), depth="main").depths == ("main",)


def test_an_extracted_depth_is_the_one_in_the_file(path: Path) -> None:
    for name, graph in GRAPHS.items():
        assert content(load(path, name)) == content(graph)
        assert Session(path, entry=name).depth is None
        assert Session(path, entry=name).depths == ()


def test_threads_and_depths(path: Path) -> None:
    session = Session(path, depth="short", threads=2)
    images = pictures(np.random.default_rng(0), GRAPHS["short"], 4)
    expected = [logits(graph, images) for graph in GRAPHS.values()]
    seen: list[bool] = []

    def run() -> None:
        seen.extend(session.run(images).tolist() in expected for _ in range(50))

    workers = [threading.Thread(target=run) for _ in range(2)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        session.depth = "long" if session.depth == "short" else "short"
    assert len(seen) == 100
    assert all(seen)


def test_errors(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^Session: `depth` must be one of long, short, got 'l"):
        Session(path, depth="lon")
    session = Session(path, depth="short")
    with pytest.raises(ConfigError, match=r"^Session: `depth` must be one of long, short, got 5"):
        session.depth = 5  # type: ignore[assignment]
    assert session.depth == "short"
    with pytest.raises(ConfigError, match=r"`entry` must be left out with `depth`, got 'long'"):
        Session(path, depth="short", entry="long")
    with pytest.raises(ConfigError, match=r"`depth` must be left out with a Graph"):
        Session(tiny(), depth="main")
    with pytest.raises(ConfigError, match=r"`source` must be a path, bytes, a file open"):
        Session(io.StringIO("x"), depth="main")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"`depth` must be given when a session is opened"):
        Session(tiny()).depth = "main"
    with pytest.raises(ConfigError, match=r"`memory` must be at least .* bytes"):
        Session(path, depth="short", memory=1)


def test_not_within_a_run(path: Path) -> None:
    session = Session(path, depth="short")
    with session._turn(), pytest.raises(ConfigError, match=r"`depth` must not be set within a run"):
        session.depth = "long"
    session.depth = "long"


def test_depths_share_programs_and_packed_weights(path: Path) -> None:
    session = Session(path, depth="short")
    programs = session._programs
    pool = programs._pool
    assert pool is not None
    layers = [node for node in GRAPHS["short"].nodes if hasattr(node, "weight")]
    assert len(pool) == len(layers)
    alone, first = pool.bytes, programs.ready()
    assert alone > 0
    session.compile_depths()
    # All layers but the last have equal weights in both depths.
    assert len(pool) == len(layers) + 1
    assert alone < pool.bytes < 2 * alone
    assert session.depth == "short"
    shared = pool.bytes
    for name in ("long", "short", "long", "short"):
        session.depth = name
    assert programs.ready() is first
    assert (len(pool), pool.bytes) == (len(layers) + 1, shared)


def test_the_reference_compiles_nothing(path: Path) -> None:
    session = Session(path, depth="short", backend="reference")
    session.compile_depths()
    assert session._programs._pool is None
    session.depth = "long"
    assert session.depth == "long"
