"""Version 2 of artifacts: several named outputs, several entry points that share tensors."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.graphs import network, pictures, tiny, tiny_parts, two_outputs

from mulfree.errors import ArtifactError, ConfigError
from mulfree.export import to_onnx
from mulfree.runtime import Graph, Session, artifact, load, reference, save
from mulfree.runtime.container import pack, unpack

PICTURE = np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3)
ENTRIES = {"small": tiny(), "large": two_outputs()}


def opened(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    return unpack(np.frombuffer(content, np.uint8))


def test_outputs_by_hand() -> None:
    """Sums of the numbers 0..7 and so on with the first layer's integers."""
    graph = two_outputs()
    assert graph.output_sizes == {"early": 3, "logits": 2}
    assert graph.outputs == 2
    y = reference.trace(graph, PICTURE)["y"].reshape(8).astype(int)
    expected = [float((y * row).sum()) for row in np.arange(24).reshape(3, 8)]
    for backend in ("reference", "native"):
        got = Session(graph, backend=backend).run_all(PICTURE)
        assert got["early"].tolist() == [expected]
        np.testing.assert_array_equal(got["logits"], Session(tiny()).run(PICTURE))
    assert Session(tiny()).run_all(PICTURE)["logits"].tolist() == got["logits"].tolist()
    assert [row.op for row in Session(graph).profile(PICTURE)].count("linear") == 2


def test_several_outputs_are_refused_where_there_is_one() -> None:
    graph = two_outputs()
    line = r"^Session.run: the network must have one output, got early, logits: use `run_all`$"
    with pytest.raises(ConfigError, match=line):
        Session(graph).run(PICTURE)


def test_several_outputs_in_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = two_outputs()
    to_onnx(graph, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["early", "logits"]
    found = session.run(None, {"pixels": PICTURE})
    for ours, theirs in zip(Session(graph).run_all(PICTURE).values(), found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    adder, early, *rest = graph.nodes
    for name in ("pixels", "constant_1", "Gather_4", "Flatten_65"):
        named = replace(graph, nodes=(adder, replace(early, output=name), *rest))
        line = f"outputs with names that no other tensor of the file has, got '{name}'"
        with pytest.raises(ConfigError, match=line):
            to_onnx(named, tmp_path / "other.onnx")


def test_outputs_have_names_of_their_own() -> None:
    graph = two_outputs()
    nodes = tuple(replace(node, output="logits") if node.ends else node for node in graph.nodes)
    line = r"`outputs` must have names of their own, got 'logits'"
    with pytest.raises(ArtifactError, match=line):
        replace(graph, nodes=nodes)
    # A value is something else.
    parts = tiny_parts()
    adder, mean, fc = parts["nodes"]
    x, y, z = parts["values"]
    parts["values"] = (x, y, replace(z, name="logits"))
    parts["nodes"] = (adder, replace(mean, output="logits"), replace(fc, input="logits"))
    assert Session(Graph(**parts)).run(PICTURE).tolist() == Session(tiny()).run(PICTURE).tolist()


def test_version_1_is_written_where_it_is_enough() -> None:
    description, _ = opened(artifact.to_bytes(tiny()))
    assert description["version"] == 1
    assert ["output" in node for node in description["nodes"]] == [True, True, False]
    assert artifact.to_bytes({"main": tiny()}) == artifact.to_bytes(tiny())
    fc = replace(tiny().nodes[2], output="classes")
    renamed = replace(tiny(), nodes=(*tiny().nodes[:2], fc))
    for other in (two_outputs(), renamed, {"small": tiny()}):
        content = artifact.to_bytes(other)
        assert opened(content)[0]["version"] == 2
        assert artifact.to_bytes(artifact.entries_from_bytes(content)) == content
    assert Session(artifact.to_bytes(renamed)).run_all(PICTURE)["classes"].tolist() == [[33, -89]]


def test_entry_points_share_tensors(tmp_path: Path) -> None:
    both = network()
    half = replace(both, name="half", nodes=both.nodes, classes=None)
    save({"full": both, "half": half}, tmp_path / "both")
    sizes = [
        sum(tensor.nbytes for tensor in opened(content)[1].values())
        for content in ((tmp_path / "both").read_bytes(), artifact.to_bytes(both))
    ]
    assert sizes[0] <= sizes[1]
    given = pictures(np.random.default_rng(0), both, 2)
    for entry, classes in (("full", both.classes), ("half", None)):
        session = Session(tmp_path / "both", entry=entry)
        assert session.graph.classes == classes
        np.testing.assert_array_equal(session.run(given), reference.run(both, given))
        again = pickle.loads(pickle.dumps(session))
        np.testing.assert_array_equal(again.run(given), session.run(given))


def test_an_entry_point_is_chosen(tmp_path: Path) -> None:
    save(ENTRIES, tmp_path / "both")
    assert load(tmp_path / "both", "small").output_sizes == {"logits": 2}
    content = (tmp_path / "both").read_bytes()
    assert Session(content, entry="large", backend="reference").graph.output_sizes["early"] == 3
    assert artifact.from_bytes(artifact.to_bytes(tiny()), "main").name == "tiny"
    line = r"^runtime.load: `entry` must be one of large, small, got "
    with pytest.raises(ConfigError, match=line + r"'smal'; did you mean 'small'\?$"):
        Session(content, entry="smal")
    with (tmp_path / "both").open("rb") as file, pytest.raises(ConfigError, match=line + "None$"):
        artifact.from_file(file)
    with pytest.raises(ConfigError, match=r"^Session: `entry` must be left out with a Graph, got "):
        Session(tiny(), entry="main")


def first_entry(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda network: change(network["entries"]["small"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda network: network.update(more=1), "not have 'more' in the network"),
        (lambda network: network.update(entries=[]), "have an object as entries"),
        (lambda network: network.update(entries={}), "`entries` must be 1 to 64, got 0"),
        (lambda network: network["entries"].update(a=1), "have an object as entry 'a'"),
        (
            lambda network: network["entries"].update({"": network["entries"].pop("small")}),
            "`entries` must be a printable text of 1..200 characters, got ''",
        ),
        (
            lambda network: network.update(entries={str(n): {} for n in range(65)}),
            "`entries` must be 1 to 64, got 65",
        ),
        (lambda network: network["entries"].pop("large"), "have no tensors but the graphs', as "),
        (first_entry(lambda entry: entry.pop("tensors")), "have an object as tensors of entry"),
        (first_entry(lambda entry: entry["tensors"].update(a=1)), "have the tensor 1"),
        (first_entry(lambda entry: entry["tensors"].update(a="b")), "have the tensor 'b'"),
        (
            first_entry(lambda entry: entry["tensors"].update(a=entry["tensors"]["fc.bias"])),
            "have no tensors but the graph's, as 'a'",
        ),
        (first_entry(lambda entry: entry["tensors"].pop("fc.bias")), "have the tensor 'fc.bias'"),
        (
            first_entry(lambda entry: entry["nodes"][2].pop("output")),
            r"have 'output' in nodes\[2\]",
        ),
        (
            first_entry(lambda entry: entry["nodes"][2].update(output="")),
            r"`nodes\[2\].output` must be a printable text",
        ),
    ],
)
def test_a_damaged_network(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    description, tensors = opened(artifact.to_bytes(ENTRIES))
    change(description)
    with pytest.raises(ArtifactError, match=message):
        artifact.from_bytes(pack(description, tensors))


def test_so_many_entry_points() -> None:
    with pytest.raises(ArtifactError, match=r"`entries` must be 1 to 64, got 65"):
        artifact.to_bytes({str(number): tiny() for number in range(65)})
