from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.command import refused, shown

from mulfree.training import load_checkpoint, read_config
from mulfree.training.methods import METHODS

WORDS = [
    *("--data.name=synthetic", "--data.classes=3", "--data.image_size=8", "--data.limit=64"),
    *("--data.batch_size=16", "--model.options.width=0.25", "--trainer.epochs=2"),
    *("--trainer.accelerator=cpu", "--trainer.tensorboard=false"),
]


def test_a_run_tells_its_epochs_and_closes_with_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    lines = shown(capsys, "train", *WORDS, f"--trainer.output={directory}").splitlines()
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
    words = (*WORDS, "--method.name=pkkd", f"--trainer.output={directory}")
    lines = shown(capsys, "train", *words).splitlines()
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
    plain = " ".join(shown(capsys, "train", "--help").split())
    for text in (
        "--method.label_smoothing",
        f"another method ({', '.join(METHODS[1:])}) they are shown with --method.name NAME",
        "--optimizer.local_lr_eta",
        "--trainer.epochs EPOCHS",
        "--resume RUN",
        "--config FILE",
        "Factor of the adaptive local learning rate",
    ):
        assert text in plain
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method:\n  name: pkkd\n")
    for words in (["--method.name", "pkkd"], ["--config", recipe]):
        out = " ".join(shown(capsys, "train", *words, "--help").split())
        for option in ("teacher", "temperature", "beta", "sigma"):
            assert f"--method.{option}" in out
        assert "Weight of the feature-distillation loss" in out
        assert "label_smoothing" not in out
        # Fields of base classes in other modules, too.
        assert "loss on the teacher's probabilities. (type: float, default: 1.0)" in out
        assert "Unvalidated" not in out


def test_the_configuration_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, "train", "--optimizer.lr=0.5", "--print_config")
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
    assert line in refused(capsys, "train", *words)


def test_resume_takes_a_directory_or_a_checkpoint_and_no_other_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(capsys, "train", *WORDS, f"--trainer.output={tmp_path}")
    for path in (tmp_path, tmp_path / "best.ckpt"):
        shown(capsys, "train", f"--resume={path}", "--trainer.threads=1")
    assert load_checkpoint(tmp_path / "last.ckpt").step == 8
    line = refused(capsys, "train", "--resume", tmp_path, "--trainer.epochs=3")
    assert "`trainer.epochs` must be 2 as in the run to resume" in line


def test_a_failure_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model.operator=conv2d", "--optimizer.lr=1e30", f"--trainer.output={tmp_path}")
    assert "finite" in refused(capsys, "train", *WORDS, *words, status=1)
