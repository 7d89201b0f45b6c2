"""Small data set files for the tests."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image


def pixels(seed: int, side: int = 32) -> NDArray[np.uint8]:
    """Random image `[3, side, side]`."""
    return np.random.default_rng(seed).integers(0, 256, (3, side, side), dtype=np.uint8)


def png(image: NDArray[np.uint8]) -> bytes:
    """`[3, H, W]` as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()


def labelled(
    classes: int = 2, side: int = 32, each: int = 2, splits: tuple[str, ...] = ("train", "test")
) -> dict[str, bytes]:
    """Members of an image archive: `each` images of each class and split, seeds 0, 1, 2, ..."""
    names = [
        f"{split}/class{label:03d}/{number}.png"
        for split in splits
        for label in range(classes)
        for number in range(each)
    ]
    return {name: png(pixels(seed, side)) for seed, name in enumerate(names)}


def write_tar(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, members: Mapping[str, bytes]) -> Path:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def idx(array: NDArray[np.uint8]) -> bytes:
    """An idx file of uint8."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def python2_string(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def python2_array(array: NDArray[np.uint8], dtype: bytes = b"u1", fortran: bool = False) -> bytes:
    """A numpy array as Python 2 pickled it, without frame."""
    shape = b"".join(b"J" + struct.pack("<i", size) for size in array.shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01(" + shape + b"tcnumpy\ndtype\n" + python2_string(dtype) + b"K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + (b"\x88" if fortran else b"\x89")
        + python2_string(array.tobytes())
        + b"tb"
    )


def python2_list(items: list[int] | list[bytes]) -> bytes:
    body = b"".join(
        python2_string(item) if isinstance(item, bytes) else b"J" + struct.pack("<i", item)
        for item in items
    )
    return b"](" + body + b"e"


def python2_dict(items: Mapping[bytes, bytes]) -> bytes:
    """A pickle of a dict with pickled values, in protocol 2 as CIFAR's authors wrote it."""
    body = b"".join(python2_string(key) + value for key, value in items.items())
    return b"\x80\x02}(" + body + b"u."


def cifar_batch(
    images: NDArray[np.uint8], labels: list[int], labels_key: bytes = b"labels"
) -> bytes:
    return python2_dict({b"data": python2_array(images), labels_key: python2_list(labels)})


def cifar_rows(seed: int, count: int = 2) -> NDArray[np.uint8]:
    """Random images `[count, 3072]` as CIFAR's batches hold them."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def cifar10() -> dict[str, bytes]:
    """The authors' files with two images each."""
    names = [f"kind {number}".encode() for number in range(10)]
    files = {f"data_batch_{n}": cifar_batch(cifar_rows(n), [n, 9]) for n in range(1, 6)}
    files["test_batch"] = cifar_batch(cifar_rows(6), [0, 1])
    files["batches.meta"] = python2_dict({b"label_names": python2_list(names)})
    return files


def cifar100() -> dict[str, bytes]:
    """The authors' files with two images each."""
    names = [f"kind {number}".encode() for number in range(100)]
    return {
        "train": cifar_batch(cifar_rows(0), [5, 99], b"fine_labels"),
        "test": cifar_batch(cifar_rows(1), [0, 1], b"fine_labels"),
        "meta": python2_dict({b"fine_label_names": python2_list(names)}),
    }


def fashion_mnist(
    train: int = 5, test: int = 3, ending: str = "", dash: str = "-"
) -> dict[str, bytes]:
    """The four idx files."""
    random = np.random.default_rng(0)
    made = {}
    for prefix, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        made[f"{prefix}-images{dash}idx3-ubyte{ending}"] = idx(images)
        made[f"{prefix}-labels{dash}idx1-ubyte{ending}"] = idx(labels)
    return {name: gzip.compress(file) if ending else file for name, file in made.items()}


def uint8(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(image.copy())
