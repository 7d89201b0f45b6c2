"""A run that was stopped and resumed is, bit for bit, the run that was not."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import assert_same, checkpoints_of, make_config, start

from mulfree.cli.main import main
from mulfree.errors import ConfigError
from mulfree.training import TrainConfig, load_checkpoint, train

STEPS = 4
EPOCHS = 2
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {},
    "average, accumulation, one-cycle, decayed weights, double precision": {
        "trainer": {"ema": 0.9, "accumulate_grad_batches": 3, "precision": "64-true"},
        "optimizer": {"decay": "no_bias_norm"},
        "schedule": {"name": "one_cycle"},
    },
    "annealed norm, adamw, half precision, validation": {
        "data": {"validation": 0.5},
        "p_annealing": {"start": 2.0},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "trainer": {"precision": "bf16-mixed", "gradient_clip_norm": 1.0},
    },
    "a teacher that learns, average, accumulation, half precision": {
        "method": {"name": "pkkd"},
        "trainer": {
            "ema": 0.9,
            "accumulate_grad_batches": 3,
            "precision": "bf16-mixed",
            "gradient_clip_norm": 1.0,
        },
    },
}


def without_output(config: TrainConfig) -> TrainConfig:
    return replace(config, trainer=replace(config.trainer, output=None))


def final_state(directory: Path) -> dict[str, Any]:
    """State of a finished run, without the counters that only the loop reads."""
    content = load_checkpoint(directory / "last.ckpt").content
    return {key: value for key, value in content.items() if key != "loops"}


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=pytest.mark.slow if options else ())
        for name, options in VARIANTS.items()
    ],
)
def test_resume_from_every_step_equals_the_run_without_a_stop(variant: str, tmp_path: Path) -> None:
    config = make_config(tmp_path, **VARIANTS[variant])
    written = checkpoints_of(replace(config, trainer=replace(config.trainer, checkpoint_every=1)))
    expected = final_state(tmp_path)
    assert len(written) == expected["global_step"]
    for number, content in enumerate(written):
        (tmp_path / "last.ckpt").write_bytes(content)
        checkpoint = load_checkpoint(tmp_path / "last.ckpt")
        assert train(checkpoint.config, checkpoint).finished
        assert_same(final_state(tmp_path), expected, str(number))


WORDS = [
    *("--data.name=synthetic", "--data.classes=3", "--data.image_size=8", "--data.limit=512"),
    *("--data.batch_size=16", "--model.options.width=0.25", "--trainer.epochs=3"),
    *("--trainer.threads=1", "--trainer.accelerator=cpu", "--trainer.tensorboard=false"),
    *("--optimizer.momentum=0.8", "--trainer.checkpoint_every=1"),
]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the run of `WORDS`, never stopped."""
    directory = tmp_path_factory.mktemp("whole")
    assert main(["train", *WORDS, f"--trainer.output={directory}"]) == 0
    return directory


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_within_an_epoch_and_resumed(
    number: signal.Signals, tmp_path: Path, whole_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "my run"
    process = start(["train", *WORDS, f"--trainer.output={directory}"])
    wait_for(directory / "last.ckpt", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    step = load_checkpoint(directory / "last.ckpt").step
    assert step < 96
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert (process.returncode, err) == (130, "")
        assert f"stopped after step {step};" in out
        assert f"mulfree train --resume '{directory}'" in out
    capsys.readouterr()
    assert main(["train", "--resume", str(directory)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "of the test images are right" in out
    assert_same(final_state(directory), final_state(whole_run))
    assert not list(directory.glob(".*"))


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    first = train(config)
    state = final_state(tmp_path)
    (tmp_path / "metrics.json").unlink()
    again = train(without_output(config), load_checkpoint(tmp_path / "last.ckpt"))
    assert again.metrics["test_accuracy"] == first.metrics["test_accuracy"]
    assert (tmp_path / "metrics.json").exists()
    assert_same(final_state(tmp_path), state)


def test_a_resumed_run_must_be_the_same_run(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", trainer={"epochs": 1})
    train(config)
    checkpoint = load_checkpoint(tmp_path / "run" / "last.ckpt")
    other = replace(checkpoint.config, optimizer=replace(config.optimizer, lr=0.5))
    with pytest.raises(ConfigError, match=r"`optimizer.lr` must be 0.1 as in .*last.ckpt.*got 0.5"):
        train(other, checkpoint)
    other = replace(checkpoint.config, trainer=replace(config.trainer, output=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"`trainer.output` must be .*run, where the run to res"):
        train(other, checkpoint)
