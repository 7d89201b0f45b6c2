"""Image trees `split/class/image` in a folder or archive, decoded once into the cache."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from mulfree.data.cache import (
    ArrayWriter,
    cache_folder,
    cached,
    damaged,
    fingerprint,
    map_array,
    seal,
    unseal,
    writing,
)
from mulfree.data.classes import class_names
from mulfree.data.config import DataConfig
from mulfree.data.containers.archive import file_bytes, iter_files
from mulfree.data.containers.bounds import Bounds
from mulfree.data.decode import decode_all
from mulfree.data.row_digests import RowCheck
from mulfree.data.samples import ImageSet, Progress
from mulfree.errors import ArtifactError, quoted

_VERSION = 2
"""Part of the name of every cache entry; to be increased when decoding or storage changes."""

_CHECKED_AT_ONCE = 2**28
"""Sets up to this many bytes are compared with their digests on loading, larger ones on reading."""

_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}

Contents = tuple[tuple[str, ...], dict[str, ImageSet]]
"""Class names in the order of the labels, and the images of each split."""


def load_image_tree(
    path: Path, config: DataConfig, progress: Progress | None, *, side: int | None
) -> Contents:
    """Classes and splits of an image tree, memory-mapped from the cache.

    Splits are `train`, `test` and `val`; folders above them and files beside them are skipped.
    Classes are numbered by name, images keep the order of the archive (in a folder: by name).

    Args:
        path: Folder or archive.
        config: Folder of the cache, and limits on decoding.
        progress: Called with the finished share while decoding.
        side: Side of the square that images are resized and cropped to; None for images of one
            size.

    Raises:
        ArtifactError: The archive or an image is damaged, hostile or not as described.
    """
    return cached(
        cache_folder(config.cache),
        fingerprint(path, side=side, version=_VERSION),
        build=lambda folder: _build(path, folder, side, progress, config),
        load=_load,
    )


def _load(folder: Path) -> Contents:
    content, files = unseal(folder)
    splits = {}
    for split in content["splits"]:
        labels, digests = (
            np.load(io.BytesIO(files[f"{split}.{part}.npy"])) for part in ("labels", "digests")
        )
        images = map_array(folder / f"{split}.images.npy")
        if images.shape != (len(labels), *content["shape"]):
            raise damaged(folder)
        check = RowCheck(images.numpy(), digests, partial(damaged, folder))
        splits[split] = ImageSet(images, torch.from_numpy(labels), mapped=True, check=check)
        if images.nbytes <= _CHECKED_AT_ONCE:
            splits[split].verify()
    return tuple(content["classes"]), splits


def _build(
    path: Path, folder: Path, side: int | None, progress: Progress | None, bounds: Bounds
) -> None:
    """Decode `path` into `folder`."""
    labels: dict[str, list[str]] = {}
    with ExitStack() as stack:
        writers: dict[str, ArrayWriter] = {}
        shape: tuple[int, ...] = ()
        total = bounds.decoded_bytes(file_bytes(path))
        decoded = decode_all(_labelled_files(path, progress), side, bounds, total)
        for places, images in stack.enter_context(closing(decoded)):
            shape = shape or images[0].shape
            rows: dict[str, list[NDArray[np.uint8]]] = {}
            for (split, label), pixels in zip(places, images, strict=True):
                if pixels.shape != shape:
                    raise ArtifactError(
                        f"data.load: {path}: images must all have one size where `image_size` is "
                        f"not given, got {_size(pixels.shape)} in {split}/{label} after "
                        f"{_size(shape)}"
                    )
                rows.setdefault(split, []).append(pixels)
                labels.setdefault(split, []).append(label)
            for split, added in rows.items():
                if split not in writers:
                    file = folder / f"{split}.images.npy"
                    writer = ArrayWriter(file, shape, bounds.min_free_bytes)
                    writers[split] = stack.enter_context(writer)
                writers[split].append(np.stack(added))
    if "train" not in labels:
        raise ArtifactError(
            f"data.load: {path} must hold images as split/class/image with a split named train, "
            f"got {', '.join(sorted(labels)) or 'none'}"
        )
    classes = _class_by_folder(labels["train"], path)
    number = {name: label for label, name in enumerate(classes.values())}
    for split, names in labels.items():
        shown = _class_by_folder(names, path)
        if extra := [name for name in shown if shown[name] not in number]:
            raise ArtifactError(
                f"data.load: {path}: class {quoted(extra[0])} of {split} must also be in train"
            )
        with writing(folder.parent):
            np.save(
                folder / f"{split}.labels.npy", np.array([number[shown[name]] for name in names])
            )
            np.save(folder / f"{split}.digests.npy", writers[split].digests)
    content = {"classes": list(number), "splits": list(labels), "shape": shape}
    small = [f"{split}.{part}.npy" for split in labels for part in ("labels", "digests")]
    seal(folder, content, small)


def _class_by_folder(folders: list[str], path: Path) -> dict[str, str]:
    """Class names by folder name, sorted by the latter.

    Systems encode one name in several ways, and splits may come from several systems.
    """
    different = sorted(set(folders))
    shown = class_names(different, f"data.load: {path}")
    return dict(zip(different, shown, strict=True))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]}"


def _labelled_files(
    path: Path, progress: Progress | None
) -> Iterator[tuple[tuple[str, str], bytes, str]]:
    """Split and class, content, and name in messages, of each image file."""
    for member in iter_files(path, lambda name: _is_labelled(path, name)):
        if progress is not None:
            progress(member.progress)
        split, label = PurePosixPath(member.name).parts[-3:-1]
        place = (_SPLITS[split.lower()], label)
        yield place, member.data, f"{path}: member {quoted(member.name)}"


def _is_labelled(path: Path, name: str) -> bool:
    """Return whether a member is in split/class/; false for files beside the splits."""
    parts = PurePosixPath(name).parts
    if len(parts) >= 3 and parts[-3].lower() in _SPLITS:
        return True
    if any(part.lower() in _SPLITS for part in parts[:-1]):
        raise ArtifactError(
            f"data.load: {path}: member {quoted(name)} must lie in split/class/, "
            f"with one of the splits {', '.join(sorted(set(_SPLITS.values())))}"
        )
    return False
