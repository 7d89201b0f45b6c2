from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.files import cifar_batch, python2_array, python2_dict, python2_list, python2_string

from mulfree.data.formats.cifar_pickle import read_batch, read_pickle
from mulfree.errors import ArtifactError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)


def test_values_as_python_2_wrote_them() -> None:
    images, labels = read_batch(cifar_batch(IMAGES, [3, 0, 9, 1]), "x", "labels")
    np.testing.assert_array_equal(images.numpy(), IMAGES.reshape(4, 3, 32, 32))
    assert labels.tolist() == [3, 0, 9, 1]


@pytest.mark.parametrize("protocol", [3, 4])
def test_values_as_python_3_writes_them(protocol: int) -> None:
    content = pickle.dumps({"data": IMAGES, b"labels": [1, 2, 3, 4]}, protocol=protocol)
    images, labels = read_batch(content, "x", "labels")
    np.testing.assert_array_equal(images.numpy(), IMAGES.reshape(4, 3, 32, 32))
    assert labels.tolist() == [1, 2, 3, 4]


class Touch:
    """Makes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"data": Touch(tmp_path / "made")}, protocol=protocol)
    with pytest.raises(
        ArtifactError, match=r"x must be an intact pickle .*: it asks for 'posix.mkd"
    ):
        read_pickle(content, "x")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be an intact pickle"),
        (b"hello", "must be an intact pickle"),
        (cifar_batch(IMAGES, [0])[:-300], "must be an intact pickle"),
        (pickle.dumps([1]), "must hold a dict, got list"),
        (b"cbuiltins\neval\n.", r"it asks for 'builtins.eval'"),
        (b"cnumpy\nload\n.", r"it asks for 'numpy.load'"),
        (b"c\x1b[31m\neval\n.", r"it asks for '\\x1b\[31m.eval'"),
        (b"\x80\x02K\x01r\xff\xff\xff\xff.", "must hold a dict, got int"),  # a memo of 2^32 places
        (python2_dict({b"data": python2_array(IMAGES, dtype=b"O8")}), "is not a uint8 array"),
        (python2_dict({b"data": python2_array(IMAGES, fortran=True)}), "is not a uint8 array in C"),
        (
            python2_dict(
                {b"data": python2_array(IMAGES).replace(struct.pack("<i", 3072), b"\0\0\0\1")}
            ),
            "array's shape and content do not agree",
        ),
    ],
)
def test_refuses_other_pickles(content: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=f"^data.load: x .*{message}"):
        read_pickle(content, "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (python2_dict({}), r"must hold `data` of shape \[N, 3072\]"),
        (python2_dict({b"data": python2_string(b"x")}), r"must hold `data` of shape \[N, 3072\]"),
        (cifar_batch(IMAGES[:, :-1], [0] * 4), r"must hold `data` of shape \[N, 3072\]"),
        # The bare class instead of an array.
        (python2_dict({b"data": b"cnumpy\nndarray\n"}), r"must hold `data` of shape"),
        (cifar_batch(IMAGES, [0] * 3), "must hold one label for each of its 4 images, got 3"),
        (cifar_batch(IMAGES[:0], []), "must hold one label for each of its 0 images, got 0"),
        (cifar_batch(IMAGES, [0] * 4, b"other"), "must hold a list of integers `labels`"),
        (
            python2_dict(
                {b"data": python2_array(IMAGES), b"labels": python2_list([b"a", b"b", b"c", b"d"])}
            ),
            "must hold a list of integers `labels`",
        ),
        (cifar_batch(IMAGES, [0, 0, 0, 256]), r"must hold labels of 0\.\.255, got 256"),
        (cifar_batch(IMAGES, [0, 0, 0, -1]), r"must hold labels of 0\.\.255, got"),
    ],
)
def test_refuses_other_contents(content: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=f"^data.load: x {message}"):
        read_batch(content, "x", "labels")


@pytest.mark.parametrize(
    "content",
    [
        # A text of a billion characters by multiplication; keys whose hash takes for ever.
        python2_dict({b"data": python2_array(IMAGES)}).replace(
            b"J" + struct.pack("<i", 4) + b"J" + struct.pack("<i", 3072),
            b"J" + struct.pack("<i", 10**9) + python2_string(b"x"),
        ),
        b"\x80\x02}K\x00" + b"q\x00h\x00h\x00h\x00\x87" * 60 + b"K\x00s.",
        b"(K\x00" + b"q\x00h\x00h\x00h\x00\x87" * 60 + b"K\x00d.",
    ],
)
def test_pickles_that_take_long(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="x must be an intact pickle of plain values and uint8"):
        read_pickle(content, "x")


@pytest.mark.parametrize("value", [{1, 2}, frozenset("a"), bytearray(2), 1j])
def test_values_that_a_batch_does_not_have(value: object) -> None:
    with pytest.raises(ArtifactError, match="must be an intact pickle of plain values and uint8"):
        read_pickle(pickle.dumps({"a": value}, protocol=5), "x")


@pytest.mark.parametrize("protocol", range(5))
def test_plain_values(protocol: int) -> None:
    value = {"a": [1, -(2**40), 2.5, None, True], "b": (1, "x"), "c": {"d": []}}
    got = read_pickle(pickle.dumps(value, protocol=protocol), "x")
    assert got["a"] == value["a"]
    assert got["c"] == {"d": []}
