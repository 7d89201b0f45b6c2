from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import make_config

from mulfree import models
from mulfree.errors import ArtifactError
from mulfree.training import load_checkpoint, load_model, train


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a moving average."""
    path = tmp_path_factory.mktemp("run")
    train(make_config(path, trainer={"ema": 0.9, "epochs": 1}))
    return path


def test_what_it_says(directory: Path) -> None:
    checkpoint = load_checkpoint(directory / "last.ckpt")
    assert checkpoint.step == 4
    assert checkpoint.config.model.options == {"width": 0.25}
    assert checkpoint.config.trainer.output is None
    assert checkpoint.model_config.name == "lenet5_bn"
    assert [row["epoch"] for row in checkpoint.history] == [1]
    state = checkpoint.content["state_dict"]
    for name, tensor in checkpoint.network.items():
        assert torch.equal(tensor, state[f"ema.module.{name}"])
    names = [name for name, p in load_model(checkpoint.path).named_parameters()]
    assert any(not torch.equal(checkpoint.network[n], state[f"task.model.{n}"]) for n in names)


def test_the_network_of_both_kinds_of_file_is_the_same(directory: Path) -> None:
    images = torch.randn(2, 3, 8, 8)
    from_checkpoint = load_model(directory / "last.ckpt")
    from_weights = load_model(directory)
    assert not from_checkpoint.training
    assert models.config_of(from_checkpoint) == models.config_of(from_weights)
    assert torch.equal(from_checkpoint(images), from_weights(images))


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code from a checkpoint ran",))


def test_hostile_files_are_refused_and_no_code_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"mulfree": Hostile()}, path)
    with pytest.raises(ArtifactError, match="must be a whole checkpoint of tensors and plain valu"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ArtifactError, match="must be a whole checkpoint of tensors and plain valu"):
        load_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"`path` must be an existing file, got .*x.ckpt"):
        load_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ArtifactError, match=r"`path` must be a readable file \(Is a directory\)"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [torch.zeros(1), {"state_dict": {}}, {"mulfree": 3}, [1]])
def test_files_of_something_else(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ArtifactError, match="must be a checkpoint of mulfree train, got"):
        load_checkpoint(tmp_path / "x.ckpt")
