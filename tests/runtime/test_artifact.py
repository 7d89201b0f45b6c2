from __future__ import annotations

import gzip
import io
import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.runtime.files import closed, opened, resealed
from tests.runtime.graphs import around, tiny

from mulfree.errors import ArtifactError
from mulfree.nodes.linear import Linear
from mulfree.nodes.sampling import Sample, samples
from mulfree.nodes.sliding import SlidingLayer
from mulfree.runtime import artifact, load, reference, save
from mulfree.runtime.graph import Graph

CONTENT = artifact.to_bytes(tiny())


def with_graph(change: Callable[[dict[str, Any]], None]) -> bytes:
    header, graph, data = opened(CONTENT)
    change(graph)
    return closed(header, data, graph)


def with_header(change: Callable[[dict[str, Any]], None]) -> bytes:
    header, _, data = opened(CONTENT)
    change(header)
    return closed(header, data)


def layer(sample: Sample) -> SlidingLayer:
    assert isinstance(sample.node, SlidingLayer)
    return sample.node


def refused(content: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        artifact.from_bytes(content)
    assert "\n" not in str(caught.value)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "tiny.mulfree"
    save(tiny(), path)
    graph = load(path)
    assert (graph.name, graph.classes) == ("tiny", ("cat", "dog"))
    assert graph.values == tiny().values
    assert graph.input.mean == (0.5,)
    assert path.read_bytes() == artifact.to_bytes(graph) == CONTENT
    picture = np.arange(9, dtype=np.uint8).reshape(1, 3, 3)
    np.testing.assert_array_equal(reference.run(graph, picture), reference.run(tiny(), picture))


def test_uneven_padding_is_an_optional_field_of_version_2() -> None:
    rng = np.random.default_rng(0)
    uneven = next(s for s in samples("conv2d", rng) if any(layer(s).padding_excess))
    excess = list(layer(uneven).padding_excess)
    written = []
    for sample in (
        uneven,
        next(s for s in samples("conv2d", rng) if not any(layer(s).padding_excess)),
    ):
        graph = around(sample, rng)
        content = artifact.to_bytes(graph)
        description = opened(content)[1]
        inner = description.get("entries", {}).get("main", description)
        (node,) = (node for node in inner["nodes"] if node["name"] == sample.node.name)
        written.append((description["version"], node.get("padding_excess")))
        assert artifact.to_bytes(artifact.from_bytes(content)) == content
    assert written == [(2, excess), (1, None)]
    refused(
        with_graph(lambda graph: graph["nodes"][0].update(padding_excess=[0, 0])),
        r"not have 'padding_excess' in nodes\[0\]",
    )


def test_tensors_are_mapped_and_read_only(tmp_path: Path) -> None:
    save(tiny(), tmp_path / "tiny")
    weight = load(tmp_path / "tiny").input.table
    base = weight
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not weight.flags.writeable


def test_other_readers_of_the_layout_read_it(tmp_path: Path) -> None:
    save(tiny(), tmp_path / "tiny")
    tensors = load_file(tmp_path / "tiny")
    layers = {"adder": ("weight", "multiplier", "offset"), "fc": ("weight", "scale", "bias")}
    named = {f"{layer}.{field}" for layer, names in layers.items() for field in names}
    assert set(tensors) == {"input_table", *named}
    assert tensors["adder.multiplier"].tolist() == [1, -3]
    assert tensors["fc.bias"].dtype == np.float32


def test_a_failed_save_leaves_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        save(tiny(), tmp_path / "missing" / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_not_a_file(tmp_path: Path) -> None:
    empty, pipe, link = (tmp_path / name for name in ("empty", "pipe", "link"))
    empty.touch()
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (empty, pipe, link, tmp_path, tmp_path / "missing"):
        line = f"^runtime.load: `path` must be a file with content, got {re.escape(str(path))}$"
        with pytest.raises(ArtifactError, match=line):
            load(path)


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tiny(), tmp_path / "tiny")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "memmap", fail)
    with pytest.raises(ArtifactError, match=r"must be a readable file .*Permission denied"):
        load(tmp_path / "tiny")


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wrong"
    path.write_bytes(with_graph(lambda graph: graph["nodes"][0].update(shift=0)))
    line = r"^runtime.load: `path` must hold a valid graph, got .*/wrong \(Graph: `nodes"
    with pytest.raises(ArtifactError, match=line):
        load(path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ArtifactError, match=r"^runtime.load: `path` must .*, got .*/wrong$"):
        load(path)


@pytest.mark.parametrize("length", [*range(8), 8, 9, 100, 1000, len(CONTENT) - 1])
def test_truncated(length: int) -> None:
    refused(CONTENT[:length], r"^runtime.from_bytes: `content` must .*, got \d+ bytes$")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 8 * 2**20 + 8, len(CONTENT), 0])
def test_wrong_length(length: int) -> None:
    refused(struct.pack("<Q", length) + CONTENT[8:], "must have")


def test_trailing_bytes() -> None:
    refused(CONTENT + b"x", "must end with its last tensor, after 308 bytes of data")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "valid JSON"),
        ("[1]", "an object as header"),
        ("[" * 100_000, "valid JSON"),
        ('{"a":' * 100_000, "valid JSON"),
        ('{"a":1,"a":2}', "a key occurs twice"),
        ('{"a":NaN}', "NaN is no number"),
        ('{"a":-Infinity}', "-Infinity is no number"),
        ('{"a":' + "9" * 5000 + "}", "valid JSON"),
        ("{} {}", "valid JSON"),
        ("{}", "an object as __metadata__"),
        ('{"__metadata__":[]}', "an object as __metadata__"),
        ('{"__metadata__":{}}', "be an artifact of mulfree"),
        ('{"__metadata__":{"mulfree":{}}}', "be an artifact of mulfree"),
        ('{"__metadata__":{"mulfree":"[]"}}', "an object as mulfree"),
        ('{"__metadata__":{"mulfree":"\\ud800"}}', "valid JSON"),
        ('{"__metadata__":{"mulfree":"{}"}}', "have version 1 or 2, not None"),
    ],
)
def test_a_header_of_something_else(text: str, message: str) -> None:
    refused(closed(text, b""), message)


def test_a_header_that_is_no_text() -> None:
    refused(struct.pack("<Q", 8) + b"\xff" * 8, "valid JSON")
    refused(struct.pack("<Q", 5) + b"{}   ", "must have a header that ends at a multiple of 8")


@pytest.mark.parametrize("version", [0, 3, 1.0, True, "1", None, 10**400])
def test_another_version(version: Any) -> None:
    refused(
        with_graph(lambda graph: graph.update(version=version)), "must have version 1 or 2, not "
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F16"}, "have a dtype of F32, I32, I64, I8, U8 in tensor 'fc.bias'"),
        ({"dtype": ["F32"]}, "have a dtype of"),
        ({"dtype": "I32"}, r"finite float32 array of rank 1, got int32\[2\]"),
        ({"shape": []}, "have 1 to 4 positive sizes as shape in tensor 'fc.bias'"),
        ({"shape": [1] * 5}, "have 1 to 4 positive sizes"),
        ({"shape": [0, 10**400]}, "have 1 to 4 positive sizes"),
        ({"shape": [2.0]}, "have 1 to 4 positive sizes"),
        ({"shape": 2}, "have 1 to 4 positive sizes"),
        ({"shape": [10**400, 10**400]}, "data_offsets within 308 bytes that fit the shape"),
        ({"shape": [1]}, "data_offsets within 308 bytes that fit the shape"),
        ({"shape": [2, 1]}, "finite float32 array of rank 1"),
        ({"data_offsets": [0]}, "have two data_offsets"),
        ({"data_offsets": [-8, 0]}, "have two data_offsets"),
        ({"data_offsets": [True, 9]}, "have two data_offsets"),
        ({"data_offsets": [400, 408]}, "data_offsets within 308 bytes that fit the shape"),
        ({"data_offsets": [32, 24]}, "data_offsets within 308 bytes that fit the shape"),
        ({"data_offsets": [26, 34]}, "aligned data_offsets"),
        ({"data_offsets": [0, 8]}, "side by side, without gap or overlap"),
        ({"more": 1}, "not have 'more' in tensor 'fc.bias'"),
    ],
)
def test_a_tensor_that_does_not_fit(entry: dict[str, Any], message: str) -> None:
    refused(with_header(lambda header: header["fc.bias"].update(entry)), message)


@pytest.mark.parametrize("name", ["dtype", "shape", "data_offsets"])
def test_a_tensor_without(name: str) -> None:
    refused(
        with_header(lambda header: header["fc.bias"].pop(name)), f"must have '{name}' in tensor"
    )


def test_a_tensor_too_few_and_one_too_many() -> None:
    header, _, data = opened(CONTENT)
    refused(with_header(lambda header: header.pop("fc.bias")), "without gap or overlap")
    header["other"] = header.pop("fc.bias")
    refused(closed(header, data), "must have the tensor 'fc.bias'")
    header["fc.bias"] = header.pop("other")
    more = {"dtype": "U8", "shape": [2], "data_offsets": [len(data), len(data) + 2]}
    refused(closed(header | {"x": more}, data + b"ab"), "no tensors but the graph's, as 'x'")


def test_names_that_make_one_tensor_of_two() -> None:
    header, graph, data = opened(CONTENT)
    graph["nodes"][2]["name"] = "adder"
    refused(closed(header, data, graph), "must have the tensor 'adder.weight'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: graph.update(more=1), "must not have 'more' in the graph"),
        (lambda graph: graph.pop("name"), "must have 'name' in the graph"),
        (lambda graph: graph.update(values=3), "must have a list of values"),
        (lambda graph: graph.update(nodes={}), "must have a list of nodes"),
        (lambda graph: graph.update(classes="cd"), "`graph.classes` must be a tuple"),
        (lambda graph: graph.update(name="\ud800"), "`graph.name` must be a printable text"),
        (lambda graph: graph.update(input=[]), "must have an object as input"),
        (lambda graph: graph["input"].pop("mean"), "must have 'mean' in input"),
        (lambda graph: graph["input"].update(table=1), "must not have 'table' in input"),
        (lambda graph: graph["values"].append(1), r"must have an object as values\[3\]"),
        (lambda graph: graph["values"][0].update(scale=1), r"`values\[0\].scale` must be a float"),
        (lambda graph: graph["values"][0].update(scale=1e999), "Infinity is no number|JSON"),
        (lambda graph: graph["nodes"].append(None), r"must have an object as nodes\[3\]"),
        (
            lambda graph: graph["nodes"][0].update(op="adder"),
            r"`nodes\[0\].op` must be one of .*; did you mean 'adder2d'\?",
        ),
        (lambda graph: graph["nodes"][0].pop("op"), r"`nodes\[0\].op` must be one of"),
        (lambda graph: graph["nodes"][0].update(op="conv2d"), "contiguous, aligned, finite int8"),
        (
            lambda graph: graph["nodes"][2].update(output="w"),
            r"must not have 'output' in nodes\[2\]",
        ),
        (lambda graph: graph["nodes"][0].update(name=[]), r"must have the tensor '\(\).weight'"),
        (lambda graph: graph["nodes"][1].update(input=[[]]), r"`nodes\[1\].input` must be a print"),
        (lambda graph: graph["nodes"].reverse(), "must be made by an earlier node"),
    ],
)
def test_a_description_that_does_not_hold(change: Any, message: str) -> None:
    refused(with_graph(change), message)


def test_doubled_keys_inside_the_graph() -> None:
    header, graph, data = opened(CONTENT)
    text = json.dumps(graph).replace('"shift": 1', '"shift": 1, "shift": 2', 1)
    refused(closed(header, data, text), "a key occurs twice")


def test_what_bits_do_not_decide() -> None:
    """Weights that are other weights are a valid graph with another result."""
    graph: Graph = artifact.from_bytes(resealed(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])))
    assert graph.input.table[0, 255] == 254


def changed_metadata(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with other metadata, and the digest that it had."""
    header, _, data = opened(CONTENT)
    change(header["__metadata__"])
    text = json.dumps(header)
    text += " " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text.encode() + data


def test_every_part_is_under_the_digest() -> None:
    refused(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), "must have the sha256 that its header names")
    text = json.dumps(opened(CONTENT)[1]).replace('"cat"', '"cab"')
    refused(changed_metadata(lambda given: given.update(mulfree=text)), "the file is damaged")


@pytest.mark.parametrize("value", ["", "0" * 64, None, 1, ["x"]])
def test_another_digest(value: Any) -> None:
    refused(changed_metadata(lambda given: given.update(sha256=value)), "must have the sha256 that")


@pytest.mark.parametrize("name", ["sha257", "SHA256", "format", "\x1b[0m"])
def test_metadata_of_another_name(name: str) -> None:
    def rename(metadata: dict[str, Any]) -> None:
        metadata[name] = metadata.pop("sha256")

    refused(changed_metadata(rename), "must not have .* in __metadata__")


def test_a_file_of_a_version_without_digests() -> None:
    older = changed_metadata(lambda metadata: metadata.pop("sha256"))
    assert artifact.to_bytes(artifact.from_bytes(older)) == CONTENT


def test_classes_in_any_script() -> None:
    names = ("Bildschirmfoto um 10.15\u202fUhr", "\U0001f469\u200d\U0001f52c" * 100)
    graph = artifact.from_bytes(artifact.to_bytes(replace(tiny(), classes=names)))
    assert graph.classes == names


def test_a_header_that_no_reader_would_take() -> None:
    weight = np.zeros((1024, 2), np.int8)
    *others, last = tiny().nodes
    assert isinstance(last, Linear)
    floats = np.zeros(1024, np.float32)
    last = replace(last, weight=weight, scale=floats, bias=floats)
    names = tuple(f"{number:04}" + "\U0001f980" * 1020 for number in range(1024))
    graph = replace(tiny(), nodes=(*others, last), classes=names)
    line = r"^runtime.save: `graph` must have a header of at most 8388608 bytes, g"
    with pytest.raises(ArtifactError, match=line):
        artifact.to_bytes(graph)


class _Drops(io.BytesIO):
    """As a socket: never all that was asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(7, size or 7))


def test_file_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tiny(), tmp_path / "tiny")
    with (tmp_path / "tiny").open("rb") as file:
        assert artifact.to_bytes(artifact.from_file(file)) == CONTENT
    assert artifact.to_bytes(artifact.from_file(_Drops(CONTENT))) == CONTENT
    refused_file = pytest.raises(
        ArtifactError, match=r"^runtime.from_bytes: `content` must have mo"
    )
    with refused_file:
        artifact.from_file(io.BytesIO())
    monkeypatch.setattr(artifact, "MAX_STREAM_BYTES", len(CONTENT))
    assert artifact.to_bytes(artifact.from_file(_Drops(CONTENT))) == CONTENT
    line = r"^runtime.from_file: `file` must have at most .* more"
    with pytest.raises(ArtifactError, match=line):
        artifact.from_file(_Drops(CONTENT + b"x"))
    line = r"^runtime.from_file: `file` must be open in binary mo"
    with pytest.raises(ArtifactError, match=line):
        artifact.from_file(io.StringIO("text"))  # type: ignore[arg-type]


def _closed() -> io.BytesIO:
    file = io.BytesIO(CONTENT)
    file.close()
    return file


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (_closed(), "ValueError 'I/O operation on closed file.'"),
        (gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(CONTENT)[:-9])), "EOFError 'Compressed"),
        (gzip.GzipFile(fileobj=io.BytesIO(CONTENT)), 'BadGzipFile "Not a gzipped file'),
        (gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(CONTENT)[:10] + b"x" * 99)), "error 'Err"),
    ],
)
def test_files_that_cannot_be_read(file: Any, reason: str) -> None:
    line = rf"^runtime.from_file: `file` must be readable, got {reason}[^\n]*$"
    with pytest.raises(ArtifactError, match=line):
        artifact.from_file(file)


def test_content_that_changes_later_is_copied() -> None:
    content = bytearray(CONTENT)
    graph = artifact.from_bytes(memoryview(content))
    content[-1] ^= 1
    assert graph.input.table[0, 255] == 255
