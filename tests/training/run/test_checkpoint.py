from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import make_config
from torch import Tensor, nn

from mulfree import models
from mulfree.errors import ArtifactError
from mulfree.training import load_checkpoint, load_model, train
from mulfree.training.run.checkpoint import load_network, save_checkpoint


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a moving average."""
    path = tmp_path_factory.mktemp("run")
    train(make_config(path, trainer={"ema": 0.9, "epochs": 1}))
    return path


def test_it_loads_with_weights_only(directory: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        assert "mulfree" in torch.load(directory / name, weights_only=True)


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


def changed(directory: Path, target: Path, **values: Any) -> Path:
    """A copy of a checkpoint with other values of mulfree's own."""
    content = load_checkpoint(directory / "last.ckpt").content
    content["mulfree"] = {**content["mulfree"], **values}
    save_checkpoint(content, target)
    return target


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


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99, -1])
def test_truncated_files(directory: Path, tmp_path: Path, keep: float) -> None:
    content = (directory / "last.ckpt").read_bytes()
    end = int(keep * len(content)) if isinstance(keep, float) else keep
    path = tmp_path / "x.ckpt"
    path.write_bytes(content[:end])
    with pytest.raises(ArtifactError, match=r"must be a whole checkpoint.*got .*x.ckpt"):
        load_checkpoint(path)


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "mulfree.checkpoint/9"}, "a checkpoint of mulfree train"),
        ({"config": {"trainer": {"gpus": 8}}}, "a complete checkpoint .*unknown option"),
        ({"config": 3}, "a complete checkpoint"),
        ({"history": [{"epoch": "one"}]}, "a complete checkpoint .*'one' is not a number"),
        ({"recipe": {}}, "a complete checkpoint"),
    ],
)
def test_checkpoints_that_are_not_complete(
    directory: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    path = changed(directory, tmp_path / "x.ckpt", **values)
    with pytest.raises(ArtifactError, match=f"`path` must be {message}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "recipe",
    [
        {"name": "lenet6", "arguments": {}},
        {"name": "lenet5_bn", "arguments": {"colour": 1}},
        {"name": "lenet5_bn", "arguments": {3: 4}},
    ],
)
def test_recipes_that_cannot_be_built(
    directory: Path, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    path = changed(directory, tmp_path / "x.ckpt", recipe=recipe)
    with pytest.raises(ArtifactError, match="must be of a network that can be built"):
        load_model(path)


def test_weights_of_another_network(directory: Path) -> None:
    checkpoint = load_checkpoint(directory / "last.ckpt")
    with pytest.raises(ArtifactError, match=r"must hold no tensors but its network's \('conv1"):
        load_network(nn.Linear(2, 2), checkpoint)
    model = load_model(directory / "last.ckpt")
    name = next(iter(checkpoint.network))
    shape = list(checkpoint.network[name].shape)
    for bad in (torch.zeros(1, 7), 3):
        checkpoint.network[name] = bad  # type: ignore[assignment]
        pattern = rf"hold plain tensors alone \('{name}' is none\)"
        if isinstance(bad, Tensor):
            pattern = rf"have its network's shapes \(\[{shape[0]}, .* for '{name}', not \[1, 7\]"
        with pytest.raises(ArtifactError, match=pattern):
            load_network(model, checkpoint)
