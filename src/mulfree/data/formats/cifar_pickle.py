"""Pickles of the CIFAR authors, read by a restricted interpreter: nothing is imported or called."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import torch
from torch import Tensor

from mulfree.data.classes import class_names
from mulfree.data.containers.archive import iter_files
from mulfree.data.samples import ImageSet, Progress
from mulfree.errors import ArtifactError, quoted


class _Dtype:
    """Substitute for numpy's dtype: keeps its name, ignores the rest of its state."""

    name: object = None

    def __init__(self, name: object, *_: object) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Substitute for numpy's array: shape and content of a C-ordered uint8 array."""

    shape: tuple[int, int] = (0, 0)
    data = b""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, (rows, columns), dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or dtype.name != "u1" or fortran:
            raise pickle.UnpicklingError("its array is not a uint8 array in C order")
        # Integers only: a text would be multiplied too.
        sizes = type(rows) is type(columns) is int
        if not isinstance(data, bytes) or not sizes or len(data) != rows * columns:
            raise pickle.UnpicklingError("its array's shape and content do not agree")
        self.shape, self.data = (rows, columns), data


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


_OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT, pickle.FLOAT),
    *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1),
    *(pickle.LONG4, pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.UNICODE),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES),
    *(pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1),
    *(pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.SETITEM, pickle.SETITEMS),
    *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.PUT, pickle.BINPUT),
    *(pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE),
    pickle.BUILD,
)
"""Opcodes of pickles of plain values and arrays."""


class _Dict(dict[Any, Any]):
    """Dictionary with texts as keys: hashing nested tuples may take exponential time."""

    __slots__ = ()

    def __setitem__(self, key: object, value: object) -> None:
        if not isinstance(key, str | bytes):
            raise pickle.UnpicklingError("its dictionaries must have texts as keys")
        super().__setitem__(key, value)


# The unpickler in Python: the one in C allocates memory for any memo index.
class _Unpickler(pickle._Unpickler):
    def load_dictionary(self) -> None:
        self.append(_Dict())  # type: ignore[attr-defined]

    def load_marked_dictionary(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        filled = _Dict()
        for key, value in zip(items[::2], items[1::2], strict=True):
            filled[key] = value
        self.append(filled)  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES},
        pickle.EMPTY_DICT[0]: load_dictionary,
        pickle.DICT[0]: load_marked_dictionary,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {quoted(f'{module}.{name}')}")
        return _ALLOWED[module, name]


def read_pickle(content: bytes, label: str) -> dict[str, Any]:
    """Dictionary of a pickle of builtin values and uint8 arrays.

    Args:
        content: The pickle.
        label: Name of the file in error messages.

    Raises:
        ArtifactError: It holds anything else.
    """
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = f": {error}" if isinstance(error, pickle.UnpicklingError) else ""
        raise ArtifactError(
            f"data.load: {label} must be an intact pickle of plain values and uint8 arrays{reason}"
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError(f"data.load: {label} must hold a dict, got {type(value).__name__}")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value[key] for key in value
    }


def read_batch(content: bytes, label: str, labels_key: str) -> tuple[Tensor, Tensor]:
    """Images `[N, 3, 32, 32]` and labels `[N]` of one file of CIFAR.

    Args:
        content: The pickle.
        label: Name of the file in error messages.
        labels_key: Entry with the labels.

    Raises:
        ArtifactError: It is not such a file.
    """
    batch = read_pickle(content, label)
    array, labels = batch.get("data"), batch.get(labels_key)
    if not isinstance(array, _Array) or array.shape[1] != 3072:
        raise ArtifactError(f"data.load: {label} must hold `data` of shape [N, 3072]")
    if not isinstance(labels, list) or not all(type(value) is int for value in labels):
        raise ArtifactError(f"data.load: {label} must hold a list of integers `{labels_key}`")
    if len(labels) != array.shape[0] or not labels:
        raise ArtifactError(
            f"data.load: {label} must hold one label for each of its {array.shape[0]} images, "
            f"got {len(labels)}"
        )
    if not 0 <= min(labels) <= max(labels) < 256:
        raise ArtifactError(f"data.load: {label} must hold labels of 0..255, got {max(labels)}")
    images = torch.frombuffer(bytearray(array.data), dtype=torch.uint8)
    return images.view(-1, 3, 32, 32), torch.tensor(labels)


@dataclass(frozen=True, kw_only=True)
class CifarFiles:
    """Names of the files of one CIFAR set, and of the entries in them.

    Attributes:
        train: Files of training images.
        test: Files of test images.
        meta: File of the class names.
        labels_key: Entry with the labels.
        names_key: Entry with the class names.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels_key: str
    names_key: str

    @property
    def names(self) -> tuple[str, ...]:
        """All files."""
        return (*self.train, *self.test, self.meta)

    def found_in(self, path: Path) -> bool:
        """Return whether a folder or archive holds these files rather than image files."""
        if path.is_dir():
            return any((path / name).is_file() for name in self.names)
        first = next(iter(iter_files(path)), None)
        return first is not None and PurePosixPath(first.name).name in self.names

    def read(
        self, path: Path, progress: Progress | None
    ) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
        """Training images, test images and class names in a folder or archive.

        Raises:
            ArtifactError: A file is missing, damaged or hostile.
        """
        contents: dict[str, bytes] = {}
        for file in iter_files(path, lambda name: PurePosixPath(name).name in self.names):
            if progress is not None:
                progress(file.progress)
            contents[PurePosixPath(file.name).name] = file.data
        for name in self.names:
            if name not in contents:
                raise ArtifactError(f"data.load: {path} must hold the file {name}")

        def part(names: tuple[str, ...]) -> ImageSet:
            read = [
                read_batch(contents[name], f"{path}: member {quoted(name)}", self.labels_key)
                for name in names
            ]
            return ImageSet(
                torch.cat([images for images, _ in read]), torch.cat([labels for _, labels in read])
            )

        label = f"{path}: member {quoted(self.meta)}"
        names = read_pickle(contents[self.meta], label).get(self.names_key)
        if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
            raise ArtifactError(f"data.load: {label} must hold a list of names `{self.names_key}`")
        given = (name.decode("latin1") if isinstance(name, bytes) else name for name in names)
        return part(self.train), part(self.test), class_names(given, f"data.load: {label}")
