from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from tests.training.runs import start

from mulfree import data
from mulfree.errors import ConfigError, MulfreeError
from mulfree.training import (
    NetworkConfig,
    PAnnealingConfig,
    TrainConfig,
    TrainerConfig,
    read_config,
)
from mulfree.training.methods import METHODS
from mulfree.training.run.config import sections
from mulfree.training.run.network import build_method
from mulfree.training.run.renamed import RENAMED


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
            *(
                "--trainer.compile=true",
                "--trainer.gradient_clip_norm=null",
                "--data.root=/some where",
            ),
        ]
    )
    assert (config.optimizer.lr, config.optimizer.name) == (1e-3, "adamw")
    assert config.model.options == {"width": 0.5, "keep": ["first"]}
    assert (config.trainer.ema, config.trainer.compile) == (0.99, "default")
    assert config.trainer.gradient_clip_norm is None
    assert config.data.root == "/some where"


def test_files_and_options_in_order(tmp_path: Path) -> None:
    one = write(
        tmp_path / "one.yaml", "optimizer: {lr: 0.3, local_lr_eta: 0.1}\ntrainer: {epochs: 3}\n"
    )
    two = write(tmp_path / "two.yaml", "optimizer:\n  local_lr_eta: 1.0e-1\n  lr: 0.4\n")
    config = read_config(["--config", one, f"--config={two}", "--optimizer.local_lr_eta=0.5"])
    assert (config.optimizer.lr, config.optimizer.local_lr_eta, config.trainer.epochs) == (
        0.4,
        0.5,
        3,
    )
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
    config = read_config(
        [
            "--model.options.width=0.5",
            "--p_annealing.start=2",
            "--trainer.gradient_clip_norm=1",
        ]
    )
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
        ("--model.operator=\udcff", "`model.operator` must be text of whole characters, got"),
        ("--optimizer.lr", "--optimizer.lr: expected one argument"),
        ("--optimizer.lr=-1", "OptimizerConfig: `lr` must be positive, got -1.0"),
        (
            "--method.name=magic",
            "get_method: `name` must be one of kd, pkkd, qat, supervised, got 'magic'",
        ),
        ("--config", "`--config` must be followed by a file"),
        ("--config=", "`--config` must be followed by a file"),
        ("--trainer.output=", "TrainerConfig: `output` must be a path, got ''"),
        ("--trainer.threads=", "train: `trainer.threads` must be int or null, got $"),
        ("--trainer.threads=99999999999", "`threads` must be at most 1024, got 99999999999"),
        ("--trainer.devices=99999", "TrainerConfig: `devices` must be at most 65536, got 99999"),
        (f"--trainer.epochs={10**400}", "`epochs` must be at most 2147483647, got an integer of"),
        (f"--trainer.epochs={'9' * 5000}", r"`trainer.epochs` must be int \(Exceeds the limit"),
        (f"--optimizer.lr={10**400}", "`optimizer.lr` must be float, got 1000"),
        ("--model.options.keep=[[1]]", "`model.options.keep` must be list of bool or int or fl"),
        ("--model.options.keep=*x", r"`model.options.keep` must be plain data \(anchors and ali"),
        ("--model.options={a: &x 1}", r"`model.options` must be dict \(anchors and aliases are"),
        ("--model.options={a: {b: {}}}", "`model.options` must be dict, got {a"),
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


def test_words_that_belong_to_no_option() -> None:
    assert read_config(["--"]) == TrainConfig()
    assert read_config(["--trainer.seed", "3", "--"]).trainer.seed == 3
    with pytest.raises(ConfigError, match=r"train: unrecognized arguments: -x\.png"):
        read_config(["--", "-x.png"])
    with pytest.raises(ConfigError, match=r"argument --data\.root: expected one argument"):
        read_config(["--data.root", "-x"])
    with pytest.raises(ConfigError, match=r"`lr` must be positive, got -0.1"):
        read_config(["--optimizer.lr", "-.1"])


@pytest.mark.parametrize(
    ("word", "mode"),
    [
        *(("none", "none"), ("false", "none"), ("default", "default"), ("true", "default")),
        *(("reduce-overhead", "reduce-overhead"), ("max-autotune", "max-autotune")),
    ],
)
def test_ways_to_compile_and_the_booleans_of_old_recipes(
    tmp_path: Path, word: str, mode: str
) -> None:
    path = write(tmp_path / "f.yaml", f"trainer:\n  compile: {word}\n")
    for words in (["--config", path], [f"--trainer.compile={word}"]):
        config = read_config(words)
        assert config.trainer.compile == mode
        # A run's file and checkpoint say it in the new way, and are read back.
        assert config.to_dict()["trainer"]["compile"] == mode
        assert TrainConfig.from_dict(config.to_dict()) == config
        assert read_config(["--config", write(tmp_path / "g.yaml", config.to_yaml())]) == config
    old = {"true": True, "false": False}.get(word, word)
    assert TrainConfig.from_dict({"trainer": {"compile": old}}).trainer.compile == mode
    assert TrainerConfig(compile=old) == TrainerConfig(compile=mode)  # type: ignore[arg-type]


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"must be a readable YAML file, got .*f.yaml"):
        read_config([f"--config={path}"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainer": {"gpu": 1}}, "train: unknown option 'trainer.gpu' in the configuration"),
        ({"optimizer": {"lr": "0.1"}}, "`optimizer.lr` must be float, got '0.1'"),
        ({"optimizer": {"name": 1}}, "`optimizer.name` must be str, got 1"),
        ({"optimizer": {"name": "sdg"}}, "OptimizerConfig: `name` must be one of .*, got 'sdg'"),
        ({"trainer": {"epochs": True}}, "`trainer.epochs` must be int, got True"),
        ({"trainer": {"epochs": 2.0}}, "`trainer.epochs` must be int, got 2.0"),
        ({"trainer": {"threads": "x"}}, "`trainer.threads` must be int or null, got 'x'"),
        ({"trainer": {"compile": 1}}, "`trainer.compile` must be str or bool, got 1"),
        ({"data": {"root": 3}}, "`data.root` must be str or null, got 3"),
    ],
)
def test_mistakes_in_a_dict(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict(values)


def test_a_dict_gives_what_it_names_and_else_the_defaults() -> None:
    config = TrainConfig.from_dict(
        {"p_annealing": {"start": 2}, "model": {"options": {"width": 1}}}
    )
    assert config == replace(
        TrainConfig(),
        p_annealing=PAnnealingConfig(start=2.0),
        model=NetworkConfig(options={"width": 1}),
    )
    assert isinstance(config.p_annealing.start, float)


@pytest.mark.parametrize("name", RENAMED)
def test_former_names_of_options(name: str, tmp_path: Path) -> None:
    section, _, option = name.partition(".")
    new = RENAMED[name].partition(" ")[0]
    known = {
        f"{section}.{option}"
        for method in METHODS
        for section, kind in sections(method).items()
        for option in get_type_hints(kind)
    }
    assert name not in known
    assert new == "removed:" or new in known
    verb = "was" if new == "removed:" else "is now"
    path = write(tmp_path / "f.yaml", f"{section}:\n  {option}: 1\n")
    for words in ([f"--{name}=1"], ["--config", path]):
        with pytest.raises(ConfigError, match=f"unknown option '{name}' in .*; it {verb} {new}"):
            read_config(words)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accelerator": "tpu"}, "`accelerator` must be one of auto, cpu, cuda, got 'tpu'"),
        ({"precision": "8"}, "`precision` must be one of .*, got '8'"),
        ({"progress": "loud"}, "`progress` must be one of auto, none, got 'loud'"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"devices": 0}, "`devices` must be at least 1, got 0"),
        ({"threads": 0}, "`threads` must be at least 1, got 0"),
        ({"accumulate_grad_batches": 0}, "`accumulate_grad_batches` must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "`checkpoint_every` must be at least 1, got 0"),
        ({"log_every": 0}, "`log_every` must be at least 1, got 0"),
        ({"gradient_clip_norm": 0.0}, "`gradient_clip_norm` must be positive, got 0.0"),
        ({"ema": 1.0}, r"`ema` must lie in \(0, 1\), got 1.0"),
        (
            {"compile": "reduce_overhead"},
            "`compile` must be one of default, max-autotune, none, reduce-overhead, "
            "got 'reduce_overhead'; did you mean 'reduce-overhead'?",
        ),
        (
            {"compile": "max-autotune", "accumulate_grad_batches": 2},
            "`accumulate_grad_batches` must be 1 with compile max-autotune, whose CUDA .*, got 2",
        ),
        (
            {"compile": "default", "strategy": "fsdp"},
            "`compile` must be none with strategy fsdp, .*, got default",
        ),
    ],
)
def test_bad_trainer_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"TrainerConfig: {message}"):
        TrainerConfig(**values)


RUNS_CODE = {"class_path": "subprocess.Popen", "init_args": {"args": "touch OWNED", "shell": True}}
YAML = "{class_path: subprocess.Popen, init_args: {args: touch OWNED, shell: true}}"


@pytest.mark.parametrize(
    "words",
    [
        [f"--model.options.width={YAML}"],
        ["--model.options.width", YAML],
        [f"--model.options={{width: {YAML}}}"],
        [f"--model={YAML}"],
        [f"--trainer.ema={YAML}"],
        ["--model.options.class_path=subprocess.Popen"],
        ["--model.class_path=subprocess.Popen"],
        ["--model.options.init_args={args: touch OWNED, shell: true}"],
        ["--model.help=subprocess.Popen"],
    ],
)
def test_a_word_builds_no_object(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def popen(*args: Any, **options: Any) -> None:
        raise AssertionError("a process was started")

    splits = data.load(TrainConfig().data)
    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MulfreeError, match=r"must be|unknown option") as caught:
        # Words that are data are for the network to refuse.
        build_method(read_config(words), splits)
    assert len(str(caught.value)) <= 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"options": {"width": RUNS_CODE}}},
        {"model": {"options": {"keep": [RUNS_CODE]}}},
        {"model": RUNS_CODE},
        RUNS_CODE,
        {"model": {**RUNS_CODE, "name": "lenet5_bn"}},
        {"optimizer": RUNS_CODE},
        {"optimizer": {"lr": RUNS_CODE}},
        {"method": {"name": RUNS_CODE}},
        {"trainer": {"output": RUNS_CODE}},
        {"trainer": "other.yaml"},
        {"model": {"__path__": "other.yaml"}},
        {"__default_config__": "other.yaml"},
        {"config": "other.yaml"},
    ],
)
def test_a_file_builds_no_object_and_reads_no_other(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def popen(*args: Any, **options: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "f.yaml", yaml.safe_dump(content))
    write(tmp_path / "other.yaml", "{epochs: 7, name: lenet5}")
    with pytest.raises(ConfigError, match=r"must be|unknown option") as caught:
        read_config(["--config", path])
    assert len(str(caught.value)) <= 400
    with pytest.raises(ConfigError, match=r"must be|unknown option"):
        TrainConfig.from_dict(content)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["f.yaml", "other.yaml"]


def test_variables_and_interpolation_are_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("MULFREE_TRAIN_TRAINER__EPOCHS", "7")
    monkeypatch.setenv("JSONARGPARSE_OMEGACONF", "true")
    path = write(tmp_path / "f.yaml", "data: {root: '${oc.env:HOME}'}\n")
    config = read_config(["--config", path])
    assert config.trainer.epochs == 40
    assert config.data.root == "${oc.env:HOME}"
    assert read_config(["--data.root=${oc.env:HOME}"]).data.root == "${oc.env:HOME}"


def test_files_that_ask_for_any_memory(tmp_path: Path) -> None:
    bomb = "a: &a [x]\n" + "b: [*a, *a]\n"
    for text in (f"model: {{options: {{x: &x [1], y: [*x]}}}}\n{bomb}", "model: &m {options: *m}"):
        path = write(tmp_path / "f.yaml", text)
        with pytest.raises(ConfigError, match="anchors and aliases are not taken"):
            read_config(["--config", path])
    path = write(tmp_path / "f.yaml", "[" * 100_000)
    with pytest.raises(ConfigError, match=r"readable YAML file.*nested deeper than 16"):
        read_config(["--config", path])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"readable YAML file.*pipe: Not a regular file"):
        read_config(["--config", str(tmp_path / "pipe")])


def test_a_dict_of_any_depth_or_kind() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"options": deep}
    for values in ({"model": deep}, deep, {"model": {"options": {"a": deep}}}):
        with pytest.raises(ConfigError, match=r"must be dict|unknown option"):
            TrainConfig.from_dict(values)
    with pytest.raises(ConfigError, match=r"train: `values` must be a table, got 3"):
        TrainConfig.from_dict(3)  # type: ignore[arg-type]


HOME_PATHS = [
    ("trainer", "output", {}),
    ("data", "root", {}),
    ("data", "cache", {}),
    ("method", "teacher", {"name": "kd"}),
    ("method", "teacher", {"name": "pkkd"}),
    ("method", "init_from", {"name": "qat"}),
]


@pytest.mark.parametrize(("section", "option", "others"), HOME_PATHS)
def test_the_home_directory_in_paths(
    section: str,
    option: str,
    others: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "f.yaml", yaml.safe_dump({section: {**others, option: "~/x~"}}))
    words = [f"--{section}.{key}={value}" for key, value in others.items()]
    for config in (
        read_config(["--config", "~/f.yaml"]),
        read_config([*words, f"--{section}.{option}=~/x~"]),
        TrainConfig.from_dict({section: {**others, option: "~/x~"}}),
    ):
        assert getattr(getattr(config, section), option) == f"{tmp_path}/x~"
    for bad in ("", " ", "a\0b"):
        with pytest.raises(ConfigError, match=f"`{option}` must be a path, got '"):
            TrainConfig.from_dict({section: {**others, option: bad}})


WITHOUT_JSONARGPARSE = """
import sys

sys.modules["jsonargparse"] = None

from dataclasses import replace

from mulfree import data, training
from mulfree.cli.main import main

config = training.TrainConfig(
    data=data.DataConfig(name="digits", limit=32, batch_size=16),
    model=training.NetworkConfig(name="lenet5_bn", options={"width": 0.25}),
    trainer=training.TrainerConfig(
        epochs=1,
        output=sys.argv[1],
        accelerator="cpu",
        threads=1,
        tensorboard=False,
        progress="none",
    ),
)
assert training.train(config).step == 2
checkpoint = training.load_checkpoint(sys.argv[1] + "/last.ckpt")
assert checkpoint.config == replace(config, trainer=replace(config.trainer, output=None))
assert training.train(checkpoint.config, checkpoint).finished
assert training.read_config(["--optimizer.lr=0.5"]).optimizer.lr == 0.5
sys.exit(main(["train", "--help"]))
"""


def test_without_jsonargparse_there_is_no_help_and_everything_else(tmp_path: Path) -> None:
    process = start([WITHOUT_JSONARGPARSE, str(tmp_path / "run")], ["-c"])
    out, err = process.communicate(timeout=100)
    line = "train: `--help` needs jsonargparse: pip install 'jsonargparse[signatures]'"
    assert (process.returncode, err) == (2, f"mulfree train: error: {line}\n")
    assert out == ""
