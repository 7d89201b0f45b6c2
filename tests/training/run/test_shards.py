"""Divided checkpoints, here of a group of one process; `test_distributed` has two."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from tests.training.run.test_checkpoint import Hostile
from tests.training.runs import assert_same, make_config
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from mulfree.errors import ArtifactError
from mulfree.training import load_checkpoint, load_model, train
from mulfree.training.run import shards
from mulfree.training.run.checkpoint import copy_checkpoint, file_of, save_checkpoint
from mulfree.training.run.shards import save_sharded

WHOLE = "must be a whole checkpoint"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of a single process."""
    directory = tmp_path_factory.mktemp("run")
    train(make_config(directory, trainer={"epochs": 1}))
    return directory / "last.ckpt"


@pytest.fixture
def content(file: Path, mesh: DeviceMesh) -> dict[str, Any]:
    """State in memory of a run that saves that checkpoint with sharded weights."""
    content = load_checkpoint(file).content
    state = content["state_dict"]
    for name, tensor in state.items():
        if tensor.ndim > 0:
            state[name] = distribute_tensor(tensor, mesh, [Shard(0)])
    return content


@pytest.fixture
def path(content: dict[str, Any], tmp_path: Path) -> Path:
    save_sharded(content, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_what_is_read_is_what_was_written(path: Path, file: Path) -> None:
    assert sorted(p.name for p in path.iterdir()) == ["content.ckpt", "shard-0.safetensors"]
    assert (path / "content.ckpt").stat().st_size < file.stat().st_size
    assert_same(load_checkpoint(path).content, load_checkpoint(file).content)
    assert_same(load_model(path).state_dict(), load_model(file).state_dict())


def test_parts_of_several_processes_are_joined_in_order(tmp_path: Path) -> None:
    rows = torch.arange(10.0).view(5, 2)
    # As FSDP divides five rows among four processes.
    parts = [rows[:2], rows[2:4], rows[4:], rows[:0]]
    digests = []
    for rank, part in enumerate(parts):
        data = save({"/a/0": part.contiguous()})
        (tmp_path / f"shard-{rank}.safetensors").write_bytes(data)
        digests.append(hashlib.sha256(data).hexdigest())
    content = {"a": [rows.to("meta"), {3: (1, "x", None)}], "b": rows, "shards": digests}
    joined = shards.join(content, tmp_path)
    assert_same(joined, {"a": [rows, {3: (1, "x", None)}], "b": rows})


def test_a_directory_is_a_checkpoint_or_that_of_a_run(path: Path) -> None:
    assert file_of(path, "last.ckpt") == path
    assert file_of(path.parent, "last.ckpt") == path


def test_files_and_directories_take_each_others_place(
    content: dict[str, Any], file: Path, path: Path
) -> None:
    plain = load_checkpoint(file).content
    save_checkpoint(plain, path)
    assert path.is_file()
    save_sharded(content, path)
    save_sharded(content, path)
    assert path.is_dir()
    for source in (path, file, path):
        copy_checkpoint(source, path.with_name("best.ckpt"))
        assert_same(load_checkpoint(path.with_name("best.ckpt")).content, plain)
    assert sorted(p.name for p in path.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


# --- saves that fail or are killed -----------------------------------------------------------


def test_a_full_disk_keeps_the_last_checkpoint(
    content: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_checkpoint(path).content

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*last.ckpt"):
        save_sharded(content, path)
    assert_same(load_checkpoint(path).content, before)
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("call", range(5))
def test_a_killed_save_leaves_a_whole_checkpoint(
    content: dict[str, Any], path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each of the two files, each of the two renames, and the removal of the old one."""
    before = load_checkpoint(path).content
    content["global_step"] += 1
    calls = 0

    def killed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > call:
                raise KilledError
            return function(*args, **options)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed(os.fsync))
        patch.setattr(Path, "rename", killed(Path.rename))
        patch.setattr(shutil, "rmtree", killed(shutil.rmtree))
        with pytest.raises(KilledError):
            save_sharded(content, path)
    found = load_checkpoint(path)
    assert found.path == path
    expected = before if call < 4 else {**before, "global_step": before["global_step"] + 1}
    assert_same(found.content, expected)

    shards.remove_leftovers(path)
    assert_same(load_checkpoint(path).content, expected)
    save_sharded(content, path)
    assert load_checkpoint(path).step == content["global_step"]
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


# --- what is not to be trusted -----------------------------------------------------------------


def replace_shard(path: Path) -> None:
    (path / "shard-0.safetensors").write_bytes(save({"/state_dict/x": torch.zeros(1)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_shard, rf"{WHOLE} \(shard-0.safetensors is damaged or of another one"),
        (
            lambda path: (path / "shard-0.safetensors").unlink(),
            rf"{WHOLE} \(shard-0.safetensors: No such file or directory\)",
        ),
        (
            lambda path: (path / "content.ckpt").unlink(),
            r"must be a readable file \(Is a directory\)",
        ),
        (
            lambda path: torch.save({"x": Hostile()}, path / "content.ckpt"),
            f"{WHOLE} of tensors and plain values",
        ),
    ],
)
def test_damaged_parts(
    path: Path,
    change: Callable[[Path], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(path)
    with pytest.raises(ArtifactError, match=f"load_checkpoint: `path` {message}") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def claimed(path: Path, *parts: bytes, **claims: Any) -> None:
    """A checkpoint whose content claims something, and whose parts have the right digests."""
    for rank, part in enumerate(parts):
        (path / f"shard-{rank}.safetensors").write_bytes(part)
    digests = [hashlib.sha256(part).hexdigest() for part in parts]
    torch.save({"shards": digests, **claims}, path / "content.ckpt")


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"shards": []}, "must be a checkpoint of mulfree train"),
        ({"shards": {"a": 1}}, "must be a checkpoint of mulfree train"),
        ({"shards": [7]}, rf"{WHOLE} \(shard-0.safetensors is damaged"),
        ({"shards": ["0"] * 2}, rf"{WHOLE} \(shard-0.safetensors is damaged"),
        ({"a": torch.empty(2, 10**12, device="meta")}, r"must be a complete checkpoint \(of '/a'"),
        ({"a": torch.empty(2, device="meta").long()}, r"must be a complete checkpoint \(of '/a'"),
        ({"b": torch.empty(2, device="meta")}, r"must be a complete checkpoint \(of '/b'"),
        ({"a": torch.empty(2, device="meta")}, "must be a checkpoint of mulfree train"),
    ],
)
def test_contents_that_claim_what_is_not_there(
    path: Path, claims: dict[str, Any], message: str
) -> None:
    claimed(path, save({"/a": torch.zeros(2)}), **claims)
    with pytest.raises(ArtifactError, match=message):
        load_checkpoint(path)


def test_parts_that_do_not_fit(path: Path) -> None:
    claimed(path, b"\xff" * 100, a=torch.empty(2, device="meta"))
    with pytest.raises(ArtifactError, match=rf"{WHOLE} \(shard-0.safetensors is not safetensors"):
        load_checkpoint(path)
    parts = (save({"/a": torch.zeros(2, width)}) for width in (2, 3))
    claimed(path, *parts, a=torch.empty(4, 2, device="meta"))
    with pytest.raises(ArtifactError, match=r"must be a complete checkpoint \(of '/a'"):
        load_checkpoint(path)
