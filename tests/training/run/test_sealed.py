from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from mulfree.training.run.sealed import from_bytes, to_bytes

CONTENT = {"a": torch.arange(8.0), "b": [1, "x", None, {"c": 0.5}], "d": torch.ones(3).bool()}


def plain(content: Any) -> bytes:
    """A file without digest, as an older version wrote it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def packed(records: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def records_of(file: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return {record.filename: archive.read(record) for record in archive.infolist()}


def assert_content(found: Any) -> None:
    assert found.keys() == CONTENT.keys()
    assert found["b"] == CONTENT["b"]
    for name in ("a", "d"):
        expected = CONTENT[name]
        assert isinstance(expected, torch.Tensor)
        assert torch.equal(found[name], expected)


def test_torch_and_zip_read_it_too() -> None:
    file = to_bytes(CONTENT)
    assert_content(from_bytes(file))
    assert_content(torch.load(io.BytesIO(file), weights_only=True))
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"mulfree sha256:")


def test_files_without_a_digest_are_read() -> None:
    assert_content(from_bytes(plain(CONTENT)))
    assert_content(from_bytes(packed(records_of(plain(CONTENT)))))


def test_every_flipped_bit_is_noticed() -> None:
    file = to_bytes(CONTENT)
    rng = np.random.default_rng(13)
    every = {int(position) for position in rng.integers(8 * len(file), size=600)}
    # All of the end and of the digest.
    every |= set(range(8 * (len(file) - 101), 8 * len(file), 3))
    for position in sorted(every):
        data = bytearray(file)
        data[position // 8] ^= 1 << (position % 8)
        with pytest.raises(ValueError, match=r"not that of its digest|does not end as a file"):
            from_bytes(bytes(data))


def test_a_bomb_is_not_unpacked() -> None:
    records = records_of(plain({"a": torch.zeros(2**20)}))
    for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(ValueError, match="its records are compressed"):
            from_bytes(packed(records, kind))
    small = packed({"archive/data.pkl": b"x" * 100, "archive/a": b""})
    # The size of the last record as it is said to be: in the list at the end.
    at = small.rindex(b"PK\x01\x02") + 20
    large = small[:at] + struct.pack("<II", 2**30, 2**30) + small[at + 8 :]
    with pytest.raises(ValueError, match="its records are larger than itself"):
        from_bytes(large)


def test_two_lists_of_records() -> None:
    inner = packed(records_of(plain(CONTENT)))
    for file in (b"PK\x03\x04" + inner, inner[:-22] + b"x" * 5 + inner[-22:]):
        with pytest.raises(ValueError, match="its list of records is not before its end"):
            from_bytes(file)
    file = plain(CONTENT)
    end = len(file) - 22
    moved = file[: end - 12] + struct.pack("<Q", 0) + file[end - 4 :]
    with pytest.raises(ValueError, match="its list of records is not before its end"):
        from_bytes(moved)
    damaged = bytearray(inner)
    damaged[inner.rindex(b"PK\x01\x02")] ^= 1
    with pytest.raises(ValueError, match="its list of records is damaged"):
        from_bytes(bytes(damaged))


@pytest.mark.parametrize(
    "content",
    [
        *(bytearray(3), Counter("ab"), {1, 2}, 1j, torch.nn.Parameter(torch.zeros(1)), b"bytes"),
        *(torch.zeros(2).to_sparse(), torch.nn.Linear(1, 1), torch.device("cpu"), print, object),
    ],
)
def test_more_than_tensors_and_plain_values(content: Any) -> None:
    with pytest.raises(ValueError, match="it holds more than tensors and plain values"):
        from_bytes(to_bytes({"a": content}))


def test_memory_that_a_pickle_asks_for() -> None:
    records = records_of(plain(CONTENT))
    # bytearray(10**10), which torch would make.
    records["archive/data.pkl"] = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0bT\x02\x85R."
    for name in ("archive/data.pkl", "archive/DATA.PKL"):
        renamed = {name if n == "archive/data.pkl" else n: data for n, data in records.items()}
        with pytest.raises(ValueError, match="it holds more than tensors and plain values"):
            from_bytes(packed(renamed))


COMMENTS = (b"x", b"mulfree sha256:", b"0" * 79, b"PK\x05\x06" + bytes(18))


@pytest.mark.parametrize(
    "file",
    [
        *(b"", b"x", b"PK\x05\x06", bytes(1000), b"\x80\x02N."),
        *(plain(CONTENT)[:-2] + struct.pack("<H", len(text)) + text for text in COMMENTS),
    ],
    ids=len,
)
def test_what_is_no_archive(file: bytes) -> None:
    with pytest.raises(ValueError, match=r"does not end as a file of torch\.save|list of record"):
        from_bytes(file)
