from __future__ import annotations

import json
from pathlib import Path

import pytest

from mulfree.cli.main import main
from mulfree.training import load_checkpoint, read_config

WORDS = [
    *("--data.name=synthetic", "--data.classes=3", "--data.image_size=8", "--data.limit=64"),
    *("--data.batch_size=16", "--model.options.width=0.25", "--trainer.epochs=2"),
    *("--trainer.accelerator=cpu", "--trainer.tensorboard=false"),
]


def test_a_run_tells_its_epochs_and_closes_with_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    assert main(["train", *WORDS, f"--trainer.output={directory}"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    metrics = json.loads((directory / "metrics.json").read_text())
    assert lines[0].startswith("epoch 1/2  train loss ")
    assert lines[1].startswith("epoch 2/2  train loss ")
    assert f"test loss {metrics['test_loss']:.4f} accuracy" in lines[1]
    assert lines[3].startswith("lenet5_bn with adder2d on synthetic: ")
    assert f"{metrics['test_accuracy']:.2%} of the test images are right" in lines[3]
    for line, file in zip(
        lines[4:7], ("model.safetensors", "metrics.json", "best.ckpt"), strict=True
    ):
        assert line.split()[0] == str(directory / file)
    assert lines[7] == f"  mulfree evaluate {directory / 'model.safetensors'}"


def test_a_run_with_a_teacher_tells_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    assert main(["train", *WORDS, "--method.name=pkkd", f"--trainer.output={directory}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    metrics = json.loads((directory / "metrics.json").read_text())
    taught, agreed = metrics["test_teacher_accuracy"], metrics["test_agreement"]
    assert f"teacher {taught:.2%} agreement {agreed:.2%}" in lines[1]
    assert lines[4] == (
        f"its teacher: {taught:.2%}, and both predict the same class for {agreed:.2%} of them"
    )
    assert lines[5] == f"  {directory / 'teacher.safetensors'}  the teacher"


def test_help_shows_the_options_of_the_method_and_names_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--help"]) == 0
    plain = " ".join(capsys.readouterr().out.split())
    assert "--method.label_smoothing" in plain
    assert "another method (qat, kd, pkkd) they are shown with --method.name NAME" in plain
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method:\n  name: pkkd\n")
    for words in (["--method.name", "pkkd"], ["--config", str(recipe)]):
        assert main(["train", *words, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        for option in ("teacher", "temperature", "beta", "sigma"):
            assert f"--method.{option}" in shown
        assert "Weight of the feature-distillation loss" in shown
        assert "label_smoothing" not in shown


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for text in (
        "--optimizer.local_lr_eta LOCAL_LR_ETA",
        "--trainer.epochs EPOCHS",
        "--resume RUN",
        "--config FILE",
    ):
        assert text in out
    assert "Factor of the adaptive local learning rate" in out


def test_the_configuration_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--optimizer.lr=0.5", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert printed == read_config(["--optimizer.lr=0.5"]).to_yaml()
    assert "  lr: 0.5\n" in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--trainer.epoch=3"],
            "unknown option 'trainer.epoch' in the command line; did you mean 'trainer.epochs'?",
        ),
        (["--resume"], "`--resume` must be followed by a file"),
        (
            ["--resume", "nowhere"],
            "load_checkpoint: `path` must be an existing file, got nowhere",
        ),
        (["--data.name=cifar10", "--data.root=/nowhere"], "no cifar10 found in /nowhere"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mulfree train: error: ")
    assert line in err
    assert err.count("\n") == 1


def test_resume_takes_a_directory_or_a_checkpoint_and_no_other_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *WORDS, f"--trainer.output={tmp_path}"]) == 0
    for path in (tmp_path, tmp_path / "best.ckpt"):
        assert main(["train", f"--resume={path}", "--trainer.threads=1"]) == 0
    assert load_checkpoint(tmp_path / "last.ckpt").step == 8
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path), "--trainer.epochs=3"]) == 2
    assert "`trainer.epochs` must be 2 as in the run to resume" in capsys.readouterr().err


def test_a_failure_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        *WORDS,
        "--model.operator=conv2d",
        "--optimizer.lr=1e30",
        f"--trainer.output={tmp_path}",
    ]
    assert main(["train", *words]) == 1
    err = capsys.readouterr().err
    assert err.startswith("mulfree train: error: ")
    assert "finite" in err
    assert err.count("\n") == 1
