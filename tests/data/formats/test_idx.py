from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from tests.data.files import idx

from mulfree.data.formats import idx as idx_module
from mulfree.data.formats.idx import read_idx
from mulfree.errors import ArtifactError

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_values(tmp_path: Path, compress: type[bytes]) -> None:
    (tmp_path / "x").write_bytes(compress(idx(ARRAY)))
    assert read_idx(tmp_path / "x", 3).tolist() == ARRAY.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must start with the idx magic number 0x00000803 .*, got 0x$"),
        (idx(ARRAY[0]), "must start with the idx magic number 0x00000803 .*, got 0x00000802$"),
        (b"\0\0\x0d" + idx(ARRAY)[3:], "must start with .*, got 0x00000d03$"),
        (idx(ARRAY)[:10], "ends within its header"),
        (idx(ARRAY)[:-1], r"must hold 24 bytes .* for shape \[2, 3, 4\], got 23$"),
        (idx(ARRAY) + b"x", r"must hold 24 bytes .* for shape \[2, 3, 4\], got more$"),
        (
            struct.pack(">BBBBIII", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1),
            r"must hold at most 1073741824 elements, got shape \[4294967295, ",
        ),
    ],
)
def test_rejects(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "small.gz").write_bytes(gzip.compress(content))
    for name in ("plain", "small.gz"):
        with pytest.raises(ArtifactError, match=f"{name} {message}"):
            read_idx(tmp_path / name, 3)


@pytest.mark.parametrize("keep", [5, 12, -9, -4])
def test_truncated_or_damaged_gzip(tmp_path: Path, keep: int) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx(ARRAY))[:keep])
    with pytest.raises(ArtifactError, match=r"x.gz is damaged or incomplete: "):
        read_idx(tmp_path / "x.gz", 3)


def test_gzip_with_a_wrong_checksum(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(idx(ARRAY)))
    content[-8] ^= 1
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"x.gz is damaged or incomplete: CRC check failed"):
        read_idx(tmp_path / "x.gz", 3)


def test_a_small_file_does_not_unpack_to_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx_module, "MIN_EXPANDED", 100)
    zeros = idx(np.zeros((100, 100, 10), np.uint8))
    (tmp_path / "x.gz").write_bytes(gzip.compress(zeros))
    size = (tmp_path / "x.gz").stat().st_size
    with pytest.raises(ArtifactError, match=rf"x.gz must hold at most {200 * size} elements, got"):
        read_idx(tmp_path / "x.gz", 3)
    (tmp_path / "x").write_bytes(zeros)
    assert read_idx(tmp_path / "x", 3).shape == (100, 100, 10)


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(OSError, match="Not a regular file"):
        read_idx(tmp_path / "x", 3)
