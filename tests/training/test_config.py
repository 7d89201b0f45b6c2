from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mulfree.errors import ConfigError
from mulfree.training import NetworkConfig, TrainConfig, TrainerConfig, read_config


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_no_words_give_the_defaults() -> None:
    assert read_config([]) == TrainConfig()


def test_dotted_options_of_every_kind() -> None:
    config = read_config(
        [
            *("--optimizer.lr", "1e-3", "--optimizer.name=adamw", "--trainer.ema=0.99"),
            *("--model.options.width=0.5", "--model.options.keep=[first]"),
            *("--trainer.compile=true", "--trainer.clip_norm=null", "--data.root=/some where"),
        ]
    )
    assert (config.optimizer.lr, config.optimizer.name) == (1e-3, "adamw")
    assert config.model.options == {"width": 0.5, "keep": ["first"]}
    assert (config.trainer.ema, config.trainer.compile) == (0.99, True)
    assert config.trainer.clip_norm is None
    assert config.data.root == "/some where"


def test_files_and_options_in_order(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", "optimizer: {lr: 0.3, eta: 0.1}\ntrainer:\n  epochs: 3\n")
    two = write(tmp_path / "two.yaml", "optimizer:\n  eta: 1.0e-1\n  lr: 0.4\n")
    config = read_config(["--config", one, f"--config={two}", "--optimizer.eta=0.5"])
    assert (config.optimizer.lr, config.optimizer.eta, config.trainer.epochs) == (0.4, 0.5, 3)
    # Where the option stands does not matter.
    assert read_config(["--optimizer.lr=0.5", "--config", one]).optimizer.lr == 0.5
    assert read_config(["--config", write(tmp_path / "empty.yaml", "")]) == TrainConfig()


def test_options_over_a_base() -> None:
    base = replace(
        TrainConfig(), model=NetworkConfig(options={"width": 2.0}), trainer=TrainerConfig(epochs=7)
    )
    assert read_config([], base) == base
    changed = read_config(["--trainer.seed=3"], base)
    assert changed == replace(base, trainer=TrainerConfig(epochs=7, seed=3))


def test_dict_and_yaml_round_trip(tmp_path: Path) -> None:
    config = read_config(["--model.options.width=0.5", "--norm.start=2", "--trainer.clip_norm=1"])
    assert TrainConfig.from_dict(config.to_dict()) == config
    path = write(tmp_path / "config.yaml", config.to_yaml())
    assert read_config(["--config", path]) == config


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--optimizer.l=1", "unknown option 'optimizer.l' in the command line; did you mean "),
        ("--optimizer.lrr=1", "'optimizer.lrr' in the command line; did you mean 'optimizer.lr'?"),
        ("--trainer.epoch=1", "'trainer.epoch' .*; did you mean 'trainer.epochs'?"),
        ("--epochs=1", "unknown option 'epochs' .*; did you mean 'trainer.epochs'?"),
        ("--conf=x", "unknown option 'conf' in the command line"),
        ("--qqqq", "unknown option 'qqqq' in the command line$"),
        ("--trainer=x.yaml", "unknown option 'trainer' in the command line"),
        ("--model.name.x=1", "unknown option 'model.name.x'"),
        ("stray", "unrecognized arguments: stray"),
        ("--optimizer.lr=fast", "train: `optimizer.lr` must be float, got fast"),
        ("--trainer.epochs=1.5", "train: `trainer.epochs` must be int, got 1.5"),
        ("--trainer.threads=x", "train: `trainer.threads` must be int or null, got x"),
        ("--schedule.name=cosin", "train: `schedule.name` must be one of 'cosine', .*, got cosin"),
        ("--optimizer.lr", "--optimizer.lr: expected one argument"),
        ("--optimizer.lr=-1", "OptimizerConfig: `lr` must be positive, got -1.0"),
        ("--method.name=magic", "get_method: `name` must be one of supervised, got 'magic'"),
        ("--config", "`--config` must be followed by a file"),
        ("--config=nowhere.yaml", "must be a readable YAML file, got nowhere.yaml: No such file"),
    ],
)
def test_mistakes_on_the_command_line(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_config([word])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer:\n  lrr: 1\n", r"unknown option 'optimizer.lrr' in .*f.yaml; did you mean"),
        (
            "optimiser:\n  lr: 1\n",
            r"unknown option 'optimiser.lr' .*; did you mean 'optimizer.lr'?",
        ),
        ("optimizer: 3\n", r"`optimizer` must be a section of options, got 3 in .*f.yaml"),
        ("lr: 3\n", r"unknown option 'lr' in .*f.yaml; did you mean 'optimizer.lr'?"),
        ("- lr\n", r"`--config` must hold sections of options, got .*f.yaml with a list"),
        ("optimizer: [\n", r"must be a readable YAML file, got .*f.yaml: while parsing"),
        ("a: !!python/object/apply:os.system ['false']\n", r"must be a readable YAML file"),
        ("optimizer:\n  lr: [1]\n", r"`optimizer.lr` must be float, got \[1\]"),
        ("trainer:\n  seed: -1\n", r"TrainerConfig: `seed` must lie in \[0, 2\^32\), got -1"),
        ("data:\n  batch_size: 0\n", r"DataConfig: `batch_size` must be a positive integer"),
        ("1: 2\n", r"unknown option '1' in .*f.yaml"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "f.yaml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(["--config", path])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"must be a readable YAML file, got .*f.yaml"):
        read_config([f"--config={path}"])


def test_mistakes_in_a_dict() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'trainer.gpu' in the configuration"):
        TrainConfig.from_dict({"trainer": {"gpu": 1}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accelerator": "tpu"}, "`accelerator` must be one of auto, cpu, cuda, got 'tpu'"),
        ({"precision": "8"}, "`precision` must be one of .*, got '8'"),
        ({"progress": "loud"}, "`progress` must be one of auto, none, got 'loud'"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"devices": 0}, "`devices` must be at least 1, got 0"),
        ({"threads": 0}, "`threads` must be at least 1, got 0"),
        ({"accumulate": 0}, "`accumulate` must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "`checkpoint_every` must be at least 1, got 0"),
        ({"log_every": 0}, "`log_every` must be at least 1, got 0"),
        ({"clip_norm": 0.0}, "`clip_norm` must be positive, got 0.0"),
        ({"ema": 1.0}, r"`ema` must lie in \(0, 1\), got 1.0"),
    ],
)
def test_bad_trainer_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"TrainerConfig: {message}"):
        TrainerConfig(**values)
