"""Sharded checkpoints: a directory with a part of every rank.

The directory holds

- `content.ckpt`: the checkpoint by `torch.save`, with a meta tensor for each sharded tensor, and
  the SHA-256 of every part;
- `shard-0.safetensors`, `shard-1.safetensors`, ...: the rows of these tensors on each rank, by
  their path in the content. Concatenated they are the whole tensor.

So it can be read by any number of processes, and no code is run from it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, Shard

from mulfree.errors import ArtifactError
from mulfree.files import read_regular
from mulfree.training.run import sealed

CONTENT = "content.ckpt"
# Key of the digests of the parts.
_DIGESTS = "shards"
T = TypeVar("T")


def is_sharded(path: Path) -> bool:
    """Return whether `path` is a directory of `save_sharded`."""
    return (path / CONTENT).is_file()


def save_sharded(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint; all ranks call it together.

    The previous checkpoint stays at `path`, or if the processes are killed at the worst moment at
    `standing(path)`, until the new checkpoint is complete.

    Args:
        content: Nested dictionaries and lists. Every rank writes its rows of a DTensor; everything
            else is taken from rank 0.
        path: The directory, on a file system that all processes share.

    Raises:
        OSError: A rank cannot write its part; it is raised on all of them.
    """
    rank = distributed.get_rank()
    part = part_of(path)
    pieces: dict[str, Tensor] = {}
    rest = _divided(content, "", pieces)

    def begin() -> None:
        if rank == 0:
            remove(part)
            part.mkdir(parents=True)

    def write_shard() -> str:
        return _write(part / _shard(rank), save(pieces))

    def finish() -> None:
        if rank == 0:
            _write(part / CONTENT, sealed.to_bytes({**rest, _DIGESTS: digests}))
            put_in_place(part, path)

    try:
        _together(begin, path)
        digests = _together(write_shard, path)
        _together(finish, path)
    except OSError:
        if rank == 0:
            shutil.rmtree(part, ignore_errors=True)
        raise


def join(content: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return the content of the checkpoint in `directory`, with whole tensors.

    Args:
        content: Content of its `content.ckpt`, of plain values that are not nested deeply.
        directory: The directory; its files are not trusted.

    Raises:
        ArtifactError: A part is missing, damaged or of another checkpoint.
    """
    digests = content.get(_DIGESTS)
    if not isinstance(digests, list) or not digests:
        raise _broken(directory, "a checkpoint of mulfree train")
    shards = [_read_shard(directory, rank, digest) for rank, digest in enumerate(digests)]

    def whole(value: Any, name: str) -> Any:
        if isinstance(value, Tensor) and value.is_meta:
            try:
                tensor = torch.cat([shard[name] for shard in shards])
            except (KeyError, RuntimeError) as error:
                raise _broken(directory, f"a complete checkpoint (of {name!r})") from error
            if tensor.shape != value.shape or tensor.dtype != value.dtype:
                raise _broken(directory, f"a complete checkpoint (of {name!r})")
            return tensor
        return _mapped(value, name, whole)

    joined: dict[str, Any] = whole({k: v for k, v in content.items() if k != _DIGESTS}, "")
    return joined


def standing(path: Path) -> Path:
    """Return the place of the checkpoint `path`; a killed save may have moved it aside."""
    old = _beside(path, "old")
    return old if old.exists() and not path.exists() else path


def part_of(path: Path) -> Path:
    """Return the place where the checkpoint `path` is written before it is complete."""
    return _beside(path, "part")


def put_in_place(new: Path, path: Path) -> None:
    """Replace `path` by the complete file or directory `new`.

    Unlike a file, a directory cannot be replaced atomically: for a moment only `standing(path)`
    finds the previous one.
    """
    old = _beside(path, "old")
    if path.exists():
        remove(old)
        path.rename(old)
    new.rename(path)
    remove(old)


def copy(source: Path, target: Path) -> None:
    """Copy a directory of `save_sharded`; the copy appears complete."""
    part = part_of(target)
    remove(part)
    shutil.copytree(source, part)
    put_in_place(part, target)


def remove(path: Path) -> None:
    """Remove a file or a directory, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove the leftovers of a killed save of the checkpoint `path`."""
    remove(part_of(path))
    if path.exists():
        remove(_beside(path, "old"))


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def _shard(rank: int) -> str:
    return f"shard-{rank}.safetensors"


def _divided(value: Any, name: str, pieces: dict[str, Tensor]) -> Any:
    """`value` with meta tensors for its DTensors, whose local rows are put into `pieces`."""
    if isinstance(value, DTensor):
        assert value.placements == (Shard(0),)
        pieces[name] = value.to_local().detach().cpu().contiguous()
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return _mapped(value, name, lambda inner, path: _divided(inner, path, pieces))


def _mapped(value: Any, name: str, function: Callable[[Any, str], Any]) -> Any:
    """`value` with `function` applied to the items of a container and their paths."""
    if isinstance(value, Mapping):
        return {key: function(item, f"{name}/{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(function(item, f"{name}/{i}") for i, item in enumerate(value))
    return value


def _write(path: Path, content: bytes) -> str:
    """Write a file, flush it to the disk, and return its digest."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _together(action: Callable[[], T], path: Path) -> list[T]:
    """Results of `action` on all ranks; a failure on one is raised on all."""
    mine: tuple[T | None, tuple[int | None, str | None] | None]
    try:
        mine = action(), None
    except OSError as error:
        mine = None, (error.errno, error.strerror)
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, mine)
    for _, failure in every:
        if failure is not None:
            raise OSError(*failure, str(path))
    return [result for result, _ in every]


def _read_shard(directory: Path, rank: int, digest: object) -> dict[str, Tensor]:
    name = _shard(rank)
    try:
        content = read_regular(directory / name)
    except OSError as error:
        raise _broken(directory, f"a whole checkpoint ({name}: {error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise _broken(directory, f"a whole checkpoint ({name} is damaged or of another one)")
    try:
        return load(content)
    except (SafetensorError, ValueError) as error:
        raise _broken(directory, f"a whole checkpoint ({name} is not safetensors)") from error


def _broken(path: Path, requirement: str) -> ArtifactError:
    return ArtifactError(f"load_checkpoint: `path` must be {requirement}, got {path}")
