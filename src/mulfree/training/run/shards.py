"""Checkpoints that many processes write together: a directory with a part of each of them.

The directory holds

- `content.ckpt`: what `torch.save` makes of the checkpoint, with a tensor without memory (on the
  meta device) in the place of each one that is divided among the processes, and the SHA-256 of
  every part;
- `shard-0.safetensors`, `shard-1.safetensors`, ...: the rows of these tensors that a process has,
  under their path in the content. One after the other they are the whole tensor.

So the content can be read without processes, on any number of them, and no code is run from it.
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
# Where the content keeps the digests of the parts.
_DIGESTS = "shards"
T = TypeVar("T")


def is_sharded(path: Path) -> bool:
    """Whether `path` is a directory of `save_sharded`."""
    return (path / CONTENT).is_file()


def save_sharded(content: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint together with all other processes, each of which has to call it.

    What was at `path` before stays there, or if the processes are killed at the worst moment at
    `standing(path)`, until the new checkpoint is complete.

    Args:
        content: Nested dictionaries and lists. Of a DTensor every process writes its rows;
            everything else is taken from the first process.
        path: The directory, on a file system that all processes share.

    Raises:
        OSError: A process cannot write its part; it is raised in all of them.
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
    """The content of the checkpoint in `directory`, with whole tensors.

    Args:
        content: What its `content.ckpt` holds.
        directory: The directory; what it holds is not trusted.

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

    try:
        rest = {key: value for key, value in content.items() if key != _DIGESTS}
        joined: dict[str, Any] = whole(rest, "")
    except RecursionError as error:
        raise _broken(directory, "a whole checkpoint") from error
    return joined


def standing(path: Path) -> Path:
    """Where the checkpoint called `path` is: there, or where a save that was killed put it."""
    old = _beside(path, "old")
    return old if old.exists() and not path.exists() else path


def part_of(path: Path) -> Path:
    """Where the checkpoint called `path` is written before it is complete."""
    return _beside(path, "part")


def put_in_place(new: Path, path: Path) -> None:
    """Gives the complete file or directory `new` the name `path`, in place of what has it.

    Unlike a file, a directory cannot be replaced in one step: for a moment what was at `path` is
    found by `standing(path)` only.
    """
    old = _beside(path, "old")
    if path.exists():
        remove(old)
        path.rename(old)
    new.rename(path)
    remove(old)


def copy(source: Path, target: Path) -> None:
    """Copies a directory of `save_sharded`; it appears whole."""
    part = part_of(target)
    remove(part)
    shutil.copytree(source, part)
    put_in_place(part, target)


def remove(path: Path) -> None:
    """Removes a file or a directory, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Removes what a save of the checkpoint `path` left that was killed."""
    remove(part_of(path))
    if path.exists():
        remove(_beside(path, "old"))


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def _shard(rank: int) -> str:
    return f"shard-{rank}.safetensors"


def _divided(value: Any, name: str, pieces: dict[str, Tensor]) -> Any:
    """`value` without the memory of its DTensors, whose local rows are put into `pieces`."""
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
    """Writes a file, waits until it is on the disk, and returns its digest."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _together(action: Callable[[], T], path: Path) -> list[T]:
    """What `action` gives in each process; where it fails in one of them, it fails in all."""
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
