"""Damages artifacts at random: each is refused with an ArtifactError or is a graph that runs.

A graph that is accepted runs in numpy and in the native kernels, which have to agree. A few
thousand mutations are part of the tests; more, from the root, with

    python -m tests.runtime.fuzz --mutations 100000

and under AddressSanitizer and UBSan, with an extension that was built for it, with

    sanitize="-fsanitize=address,undefined -fno-sanitize-recover=all"
    cmake -S . -B build/asan -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="$sanitize"
    cmake --build build/asan
    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
        python -m tests.runtime.fuzz --native build/asan/_core*.so
"""

from __future__ import annotations

import copy
import importlib.util
import json
import struct
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.fuzzing import (
    Random,
    check_line,
    chosen,
    extended,
    flipped,
    main,
    overwritten,
    rounds,
    truncated,
)
from tests.runtime.files import resealed
from tests.runtime.graphs import around, pictures, random_graph, random_outputs, tiny, two_outputs

from mulfree.errors import ArtifactError
from mulfree.nodes import NODES
from mulfree.nodes.sampling import samples
from mulfree.runtime import EarlyExitSession, Exits, Graph, Session, artifact, load

# A graph that would take longer than this is checked but not run.
_MAX_OPERATIONS = 2_000_000
_MAX_ELEMENTS = 200_000

_HOSTILE: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15, 2**15 + 1, 2**16, 2**31 - 1, 2**31),
    *(2**32, 2**53, 2**61, 2**62, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63), 10**300),
    *(True, False, None, 0.5, -0.0, 1e-31, 1e-30, 1e300, "", "x", "adder2d", "linear", "U8"),
    *([], {}, [0], [0, 0], [1, 1], [1, 1, 1], [-1, 2**62], [[0]], {"a": 0}, "\ud800", "\x00", "é"),
)


def reweighted(rng: Random, content: bytes) -> bytes:
    """Other numbers: bytes of the tensors, up to all of them."""
    (length,) = struct.unpack("<Q", content[:8])
    data = np.frombuffer(content[8 + length :], np.uint8).copy()
    hit = rng.random(data.size) < 10.0 ** -rng.uniform(0, 4)
    data[hit] = rng.integers(0, 256, int(hit.sum()))
    return content[: 8 + length] + data.tobytes()


def relabelled(rng: Random, content: bytes) -> bytes:
    """Another length of the header."""
    length = int(chosen(rng, [0, 1, 8, 2**16, 2**32, 2**63, 2**64 - 8, 2**64 - 1, len(content)]))
    if rng.integers(2):
        length = max(0, struct.unpack("<Q", content[:8])[0] + int(rng.integers(-16, 17)))
    return struct.pack("<Q", length) + content[8:]


def spliced(rng: Random, content: bytes) -> bytes:
    """The head of one file and the tail of another."""
    other = chosen(rng, BASES)
    tail: bytes = other[int(rng.integers(len(other))) :]
    return content[: int(rng.integers(len(content)))] + tail


def rewritten(rng: Random, content: bytes) -> bytes:
    """The header, or the graph in it, as JSON with other values, keys, order or depth."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    inner = bool(rng.integers(4))
    if inner:
        graph = json.loads(header["__metadata__"]["mulfree"])
        text = _disturbed(rng, graph)
        header["__metadata__"]["mulfree"] = text
        text = json.dumps(header)
    else:
        text = _disturbed(rng, header)
    encoded = text.encode(errors="replace")
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + content[8 + length :]


def _disturbed(rng: Random, tree: Any) -> str:
    """The text of a JSON tree after 1 to 3 changes."""
    for _ in range(int(rng.integers(1, 4))):
        containers = list(_containers(tree))
        place = chosen(rng, containers)
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            continue
        key, other = chosen(rng, keys), chosen(rng, keys)
        match int(rng.integers(6)):
            case 0:
                place[key] = copy.deepcopy(chosen(rng, _HOSTILE))
            case 1:
                del place[key]
            case 2:
                place[key], place[other] = place[other], place[key]
            case 3:
                # A value from elsewhere: names of other values make cycles and gaps.
                source = chosen(rng, containers)
                found = list(source.values()) if isinstance(source, dict) else source
                place[key] = copy.deepcopy(chosen(rng, found)) if found else None
            case 4 if isinstance(place[key], int):
                place[key] += int(rng.integers(-2, 3))
            case _ if isinstance(place, dict):
                place[f"{key}{chosen(rng, ['', 'x'])}"] = copy.deepcopy(place[key])
    text = json.dumps(tree)
    match int(rng.integers(12)):
        case 0:
            depth = int(rng.integers(1, 20_000))
            return text.replace("1", "[" * depth + "]" * int(rng.choice([0, depth])), 1)
        case 1:
            return text.replace("1", "1" * int(rng.integers(1, 10_000)), 1)
        case 2:
            position = text.find('"', int(rng.integers(len(text))))
            end = text.find(",", position)
            return text[: end + 1] + text[position : end + 1] + text[end + 1 :]
        case 3:
            return text.replace(
                "0", chosen(rng, ["NaN", "Infinity", "1e999", "-0", "00", "0x1"]), 1
            )
    return text


def _containers(tree: Any) -> Any:
    if isinstance(tree, dict | list):
        yield tree
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _containers(item)


_BYTES: tuple[Callable[[Random, bytes], bytes], ...] = (
    truncated,
    extended,
    flipped,
    overwritten,
    relabelled,
    spliced,
    reweighted,
    reweighted,
    reweighted,
)


def mutated(rng: Random) -> bytes:
    """A valid file after a change of its JSON, of its bytes, or both.

    Most have the digest of what they hold: else nothing behind it would be reached.
    """
    content: bytes = chosen(rng, BASES)
    kind = int(rng.integers(8))
    if kind < 5:
        content = rewritten(rng, content)
    if kind > 3:
        content = chosen(rng, _BYTES)(rng, content)
    return resealed(content) if rng.integers(8) else content


def _bases() -> list[bytes]:
    """Small files: one of each kind of node, and some of several."""
    rng = np.random.default_rng(32)
    single = (around(next(samples(op, rng)), rng) for op in NODES)
    graphs = [tiny(), *single, *(random_graph(rng, nodes) for nodes in (3, 4, 5, 6))]
    entries = artifact.to_bytes({"small": tiny(), "large": two_outputs()})
    exits = Exits(thresholds=(0.3, 0.6), confidence="entropy")
    leaving = replace(random_outputs(rng, 3, 4), exits=exits)
    return [*map(artifact.to_bytes, graphs), entries, artifact.to_bytes(leaving)]


BASES = _bases()


def fuzz(mutations: int, seed: int, folder: Path, native: str = "") -> Counter[str]:
    """How many mutations were refused, accepted and run; anything else is an exception."""
    if native:
        _use(Path(native))
    rng = np.random.default_rng(seed)
    path = folder / "mutation"
    outcomes: Counter[str] = Counter()
    for number in rounds(mutations, every=100):
        content = mutated(rng)
        try:
            graphs = list(artifact.entries_from_bytes(content).values())
            if number % 8 == 0:
                path.write_bytes(content)
                graphs = [load(path)] if len(graphs) == 1 else graphs
        except ArtifactError as error:
            outcomes["refused"] += 1
            check_line(error)
            continue
        outcomes["accepted"] += 1
        outcomes["run"] += all(_runs(rng, graph) for graph in graphs)
    return outcomes


def _runs(rng: Random, graph: Graph) -> bool:
    """Whether the graph is small enough to run, and then does so as the reference."""
    assert artifact.to_bytes(artifact.from_bytes(artifact.to_bytes(graph))) == artifact.to_bytes(
        graph
    )
    counts = graph.counts()
    if sum(count.total for count in counts) > _MAX_OPERATIONS:
        return False
    if sum(value.elements for value in graph.values) > _MAX_ELEMENTS:
        return False
    given = pictures(rng, graph, 2)
    expected = Session(graph, backend="reference").run_all(given)
    got = Session(graph, threads=1 + int(rng.integers(2))).run_all(given)
    np.testing.assert_equal(got, expected)
    if graph.exits is not None:
        ways: list[EarlyExitSession] = [
            EarlyExitSession(graph, threads=1 + int(rng.integers(2))),
            EarlyExitSession(graph, backend="reference"),
        ]
        for one, other in zip(*(session.run_exits(given) for session in ways), strict=True):
            np.testing.assert_equal(one, other)
    return True


def _use(extension: Path) -> None:
    """Takes the native kernels from another file."""
    name = "mulfree._native._core"
    spec = importlib.util.spec_from_file_location(name, extension)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


if __name__ == "__main__":
    main(fuzz, "artifacts", 100_000, native="")
