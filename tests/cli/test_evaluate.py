from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.command import refused, shown

from mulfree import models
from mulfree.cli.network import _config_beside
from mulfree.training import load_model


@pytest.fixture
def metrics(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return values


@pytest.mark.parametrize("file", ["", "last.ckpt", "model.safetensors"])
def test_every_kind_of_file(
    file: str, run: Path, metrics: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy, loss = metrics["test_accuracy"], metrics["test_loss"]
    out = shown(capsys, "evaluate", run / file)
    assert out.startswith(f"accuracy {accuracy:.2%}  loss {loss:.4f}  (")
    assert out.endswith(" test images)\n")


def test_json_and_classes(
    run: Path, metrics: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "last.ckpt"
    words = ("evaluate", path, "--per-class", "--threads=1")
    values = json.loads(shown(capsys, *words, "--json"))
    assert values["checkpoint"] == str(path)
    assert (values["data"], values["split"]) == ("synthetic", "test")
    assert values["accuracy"] == pytest.approx(metrics["test_accuracy"])
    assert values["loss"] == pytest.approx(metrics["test_loss"], rel=1e-5)
    shares = values["per_class"]
    assert len(shares) == 3
    lines = shown(capsys, *words).splitlines()[1:]
    assert lines == [f"  {name}  {share:.2%}" for name, share in shares.items()]


def test_a_teacher(
    run: Path, metrics: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = shown(capsys, "evaluate", run, "--teacher", run / "last.ckpt").splitlines()[1]
    assert line == f"teacher  {metrics['test_accuracy']:.2%}  agreement 100.00%  KL 0.0000"

    torch.manual_seed(1)
    arguments = models.config_of(load_model(run)).arguments
    other = models.create_model("lenet5_bn", **arguments)
    # Beside a configuration of a run, as weights without one name no data.
    teacher = tmp_path / "other.safetensors"
    models.save_weights(other, teacher)
    shutil.copy(run / "config.yaml", tmp_path)
    values = json.loads(shown(capsys, "evaluate", run, "--teacher", teacher, "--json"))
    assert values["teacher"] == str(teacher)
    assert values["kl"] > 0
    # From the other's side the accuracies change places.
    seen = json.loads(shown(capsys, "evaluate", teacher, "--teacher", run, "--json"))
    assert seen["agreement"] == values["agreement"]
    assert seen["accuracy"] == pytest.approx(values["teacher_accuracy"])
    assert seen["teacher_accuracy"] == pytest.approx(values["accuracy"])
    assert seen["kl"] != values["kl"]


def test_the_training_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "evaluate", run, "--split=train", "--data.eval_batch_size=7")
    assert "(64 train images)" in out


def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, broken, other = (
        tmp_path / name for name in ("alone.safetensors", "broken.ckpt", "other.safetensors")
    )
    shutil.copy(run / "model.safetensors", alone)
    broken.write_bytes((run / "last.ckpt").read_bytes()[:1000])
    models.save_weights(models.create_model("lenet5_bn"), other)
    classes = "num_classes 3 as the network has it, got"
    for words, line in (
        ((run, "--split=validation"), "nothing held out"),
        ((tmp_path / "x.ckpt",), "must be an existing file"),
        ((tmp_path / "x.safetensors",), "x.safetensors"),
        ((run, "--data.name=digits"), f"must be a data set with {classes} digits with 10"),
        ((alone,), "evaluate: `--data.name` must be given, as there is no config.yaml"),
        ((broken,), "must be a whole checkpoint"),
        ((run, "--teacher", other), f"evaluate: `--teacher` must have {classes} 10"),
        ((run, "--threads", "99999999999"), "--threads: must be at most 1024, got '99999999999'"),
        (("",), "argument CHECKPOINT: must be a path, got ''"),
    ):
        assert line in refused(capsys, "evaluate", *words)


def test_a_configuration_next_to_weights_runs_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run / "model.safetensors", tmp_path)
    code = "{class_path: subprocess.Popen, init_args: {args: touch OWNED, shell: true}}"
    (tmp_path / "config.yaml").write_text(f"model: {{options: {{width: {code}}}}}")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    output = ("-o", tmp_path / "out.png")
    for words in (["evaluate"], ["quantize", *output], ["inspect", "features", *output]):
        # The table is plain data, and the configuration does not fit the weights.
        assert " must " in refused(capsys, *words, tmp_path)
        assert sorted(tmp_path.iterdir()) == before


def test_a_run_in_a_directory_called_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "~"
    run.mkdir()
    (run / "config.yaml").write_text("data: {name: synthetic}")
    monkeypatch.chdir(tmp_path)
    config = _config_beside(Path("~", "model.safetensors"))
    assert config is not None
    assert config.data.name == "synthetic"
