from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import make_config

from mulfree import models
from mulfree.cli.main import main
from mulfree.cli.network import _config_beside
from mulfree.training import load_model, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    directory = tmp_path_factory.mktemp("run")
    train(make_config(directory))
    return directory


@pytest.fixture
def metrics(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return values


@pytest.mark.parametrize("file", ["", "last.ckpt", "model.safetensors"])
def test_every_kind_of_file(
    file: str, run: Path, metrics: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run / file)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    accuracy, loss = metrics["test_accuracy"], metrics["test_loss"]
    assert out.startswith(f"accuracy {accuracy:.2%}  loss {loss:.4f}  (")
    assert out.endswith(" test images)\n")


def test_json_and_classes(
    run: Path, metrics: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(run / "last.ckpt")
    assert main(["evaluate", path, "--json", "--per-class", "--threads=1"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["checkpoint"] == path
    assert (values["data"], values["split"]) == ("synthetic", "test")
    assert values["accuracy"] == pytest.approx(metrics["test_accuracy"])
    assert values["loss"] == pytest.approx(metrics["test_loss"], rel=1e-5)
    shares = values["per_class"]
    assert len(shares) == 3
    assert main(["evaluate", path, "--per-class"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [f"  {name}  {share:.2%}" for name, share in shares.items()]


def test_a_teacher(
    run: Path, metrics: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--teacher", str(run / "last.ckpt")]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line == f"teacher  {metrics['test_accuracy']:.2%}  agreement 100.00%  KL 0.0000"

    torch.manual_seed(1)
    arguments = models.config_of(load_model(run)).arguments
    other = models.create_model("lenet5_bn", **arguments)
    models.save_weights(other, tmp_path / "other.safetensors")
    teacher = str(tmp_path / "other.safetensors")
    assert main(["evaluate", str(run), "--teacher", teacher, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["teacher"] == teacher
    assert values["kl"] > 0
    # Beside the run's configuration: from the other's side the accuracies change places.
    beside = run / "other.safetensors"
    shutil.copy(teacher, beside)
    assert main(["evaluate", str(beside), "--teacher", str(run), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    beside.unlink()
    assert seen["agreement"] == values["agreement"]
    assert seen["accuracy"] == pytest.approx(values["teacher_accuracy"])
    assert seen["teacher_accuracy"] == pytest.approx(values["accuracy"])
    assert seen["kl"] != values["kl"]


def test_a_teacher_of_other_classes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.save_weights(models.create_model("lenet5_bn"), tmp_path / "other.safetensors")
    assert main(["evaluate", str(run), "--teacher", str(tmp_path / "other.safetensors")]) == 2
    message = r"evaluate: `--teacher` must have num_classes 3 as the network has it, got 10"
    assert re.search(message, capsys.readouterr().err)


def test_the_training_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--split=train", "--data.eval_batch_size=7"]) == 0
    assert "(64 train images)" in capsys.readouterr().out


def failure(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["evaluate", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mulfree evaluate: error: ")
    assert err.count("\n") == 1
    return err


def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nothing held out" in failure([str(run), "--split=validation"], capsys)
    assert "must be an existing file" in failure([str(tmp_path / "x.ckpt")], capsys)
    assert "x.safetensors" in failure([str(tmp_path / "x.safetensors")], capsys)
    wrong = failure([str(run), "--data.name=digits"], capsys)
    assert (
        "must be a data set with num_classes 3 as the network has it, got digits with 10" in wrong
    )
    alone = tmp_path / "alone.safetensors"
    shutil.copy(run / "model.safetensors", alone)
    assert "`--data.name` must be given, as there is no config.yaml" in failure(
        [str(alone)], capsys
    )
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes((run / "last.ckpt").read_bytes()[:1000])
    assert "must be a whole checkpoint" in failure([str(broken)], capsys)
    line = "argument --threads: must be at most 1024, got '99999999999'"
    assert line in failure([str(run), "--threads", "99999999999"], capsys)
    assert "argument CHECKPOINT: must be a path, got ''" in failure([""], capsys)


def test_a_configuration_next_to_weights_runs_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run / "model.safetensors", tmp_path)
    code = "{class_path: subprocess.Popen, init_args: {args: touch OWNED, shell: true}}"
    (tmp_path / "config.yaml").write_text(f"model: {{options: {{width: {code}}}}}")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for verb in ("evaluate", "quantize", "inspect features"):
        words = [*verb.split(), str(tmp_path)]
        words += [] if verb == "evaluate" else ["-o", str(tmp_path / "out.png")]
        assert main(words) == 2
        assert "`model.options` must be dict of dict of bool" in capsys.readouterr().err
        assert sorted(tmp_path.iterdir()) == before


def test_a_run_in_a_directory_called_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "~"
    run.mkdir()
    (run / "config.yaml").write_text("data: {name: synthetic}")
    monkeypatch.chdir(tmp_path)
    config = _config_beside(Path("~", "model.safetensors"))
    assert config is not None
    assert config.data.name == "synthetic"
