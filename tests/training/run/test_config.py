from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from tests.training.runs import start

from mulfree import data, models
from mulfree.errors import ConfigError, MulfreeError
from mulfree.training import (
    TrainConfig,
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
            *("--trainer.compile=true", "--trainer.gradient_clip_norm=null"),
            "--data.root=/some where",
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
    assert (config.optimizer.lr, config.optimizer.local_lr_eta) == (0.4, 0.5)
    assert config.trainer.epochs == 3
    # Where the option stands does not matter.
    assert read_config(["--optimizer.lr=0.5", "--config", one]).optimizer.lr == 0.5
    assert read_config(["--config", write(tmp_path / "empty.yaml", "")]) == TrainConfig()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--optimizer.lrr=1", "'optimizer.lrr' in the command line; did you mean 'optimizer.lr'?"),
        ("--epochs=1", "unknown option 'epochs' .*; did you mean 'trainer.epochs'?"),
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
            f"get_method: `name` must be one of {', '.join(sorted(METHODS))}, got 'magic'",
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
        ("--model.options={a: {b: {c: {}}}}", "`model.options` must be dict, got {a"),
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
def test_ways_to_compile(tmp_path: Path, word: str, mode: str) -> None:
    path = write(tmp_path / "f.yaml", f"trainer:\n  compile: {word}\n")
    config = read_config(["--config", path])
    assert config.trainer.compile == mode
    assert read_config([f"--trainer.compile={word}"]) == config
    assert read_config(["--config", write(tmp_path / "g.yaml", config.to_yaml())]) == config
    assert TrainConfig.from_dict(config.to_dict()) == config


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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which no process may be started."""

    def popen(*args: Any, **options: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUNS_CODE = {"class_path": "subprocess.Popen", "init_args": {"args": "touch OWNED", "shell": True}}
YAML = "{class_path: subprocess.Popen, init_args: {args: touch OWNED, shell: true}}"


@pytest.mark.parametrize(
    "words",
    [
        [f"--model.options.width={YAML}"],
        ["--model.options.width", YAML],
        [f"--model={YAML}"],
        [f"--trainer.ema={YAML}"],
        ["--model.class_path=subprocess.Popen"],
        ["--model.options.init_args={args: touch OWNED, shell: true}"],
        ["--model.help=subprocess.Popen"],
    ],
)
def test_a_word_builds_no_object(words: list[str], folder: Path) -> None:
    splits = data.load(TrainConfig().data)
    with pytest.raises(MulfreeError, match=r"must be|unknown option") as caught:
        # Words that are data are for the network to refuse.
        build_method(read_config(words), splits)
    assert len(str(caught.value)) <= 400
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"options": {"width": RUNS_CODE}}},
        {"model": {"options": {"keep": [RUNS_CODE]}}},
        {"model": RUNS_CODE},
        RUNS_CODE,
        {"optimizer": {"lr": RUNS_CODE}},
        {"method": {"name": RUNS_CODE}},
        {"trainer": {"output": RUNS_CODE}},
        {"trainer": "other.yaml"},
        {"model": {"__path__": "other.yaml"}},
        {"config": "other.yaml"},
    ],
)
def test_a_file_builds_no_object_and_reads_no_other(content: dict[str, Any], folder: Path) -> None:
    path = write(folder / "f.yaml", yaml.safe_dump(content))
    write(folder / "other.yaml", "{epochs: 7, name: lenet5}")
    # Tables of plain data are for the network to refuse.
    with pytest.raises(ConfigError, match=r"must be|unknown option") as caught:
        create(read_config(["--config", path]))
    assert len(str(caught.value)) <= 400
    with pytest.raises(ConfigError, match=r"must be|unknown option"):
        create(TrainConfig.from_dict(content))
    assert sorted(found.name for found in folder.iterdir()) == ["f.yaml", "other.yaml"]


def create(config: TrainConfig) -> None:
    options: dict[str, Any] = dict(config.model.options)
    models.create_model(config.model.name, operator=config.model.operator, **options)


def test_a_dict_of_any_depth_or_kind() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"options": deep}
    for values in ({"model": deep}, deep, {"model": {"options": {"a": deep}}}):
        with pytest.raises(ConfigError, match=r"must be dict|unknown option"):
            TrainConfig.from_dict(values)
    with pytest.raises(ConfigError, match=r"train: `values` must be a table, got 3"):
        TrainConfig.from_dict(3)  # type: ignore[arg-type]


HOME_PATHS: list[tuple[str, str, dict[str, str]]] = [
    ("trainer", "output", {}),
    ("data", "root", {}),
    ("data", "cache", {}),
    ("method", "teacher", {"name": "kd"}),
    ("method", "teacher", {"name": "pkkd"}),
    ("method", "teacher", {"name": "graft"}),
    ("method", "init_from", {"name": "qat"}),
]


def test_the_home_directory_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for section, option, others in HOME_PATHS:
        write(tmp_path / "f.yaml", yaml.safe_dump({section: {**others, option: "~/x~"}}))
        config = read_config(["--config", "~/f.yaml"])
        assert getattr(getattr(config, section), option) == f"{tmp_path}/x~"
        for bad in ("", " ", "a\0b"):
            with pytest.raises(ConfigError, match=f"`{option}` must be a path, got '"):
                TrainConfig.from_dict({section: {**others, option: bad}})


WITHOUT_JSONARGPARSE = """
import sys

sys.modules["jsonargparse"] = None

from mulfree.cli.main import main

assert main(["train", "--trainer.epochs=1", *sys.argv[1:]]) == 0
assert main(["train", "--resume", sys.argv[1].partition("=")[2]]) == 0
sys.exit(main(["train", "--help"]))
"""


@pytest.mark.processes
def test_without_jsonargparse_there_is_no_help_and_everything_else(tmp_path: Path) -> None:
    words = [
        *(f"--trainer.output={tmp_path}", "--trainer.threads=1", "--trainer.accelerator=cpu"),
        *("--trainer.tensorboard=false", "--model.options.width=0.25"),
        *("--data.name=digits", "--data.limit=32", "--data.batch_size=16"),
    ]
    process = start([WITHOUT_JSONARGPARSE, *words], ["-c"])
    _, err = process.communicate(timeout=100)
    line = "train: `--help` needs jsonargparse: pip install 'jsonargparse[signatures]'"
    assert (process.returncode, err) == (2, f"mulfree train: error: {line}\n")
