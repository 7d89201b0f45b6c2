"""The configuration of a run: typed sections, read from YAML files and dotted options."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from mulfree.data import DataConfig
from mulfree.errors import BackendUnavailableError, ConfigError
from mulfree.training.checks import require, require_choice
from mulfree.training.methods import METHODS, get_method, supervised
from mulfree.training.norm import NormConfig
from mulfree.training.optimizer import OptimizerConfig
from mulfree.training.schedule import ScheduleConfig
from mulfree.training.task import MethodConfig

if TYPE_CHECKING:
    import jsonargparse

_ACCELERATORS = ("auto", "cpu", "cuda")
_STRATEGIES = ("auto", "ddp", "fsdp")
_PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed")
_COMPILE = ("none", "default", "reduce-overhead", "max-autotune")
_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network that is trained. Its classes and channels are those of the data.

    Attributes:
        name: A name of `mulfree.models.list_models()`.
        operator: What stands in the place of the convolutions.
        options: Further options of `mulfree.models.create_model`.
    """

    name: str = "lenet5_bn"
    operator: str = "adder2d"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long, where and how exactly a run goes.

    Attributes:
        epochs: Passes over the training images.
        seed: Decides initialisation, order, augmentation and every other chance.
        output: Directory of the run; by default a new one under runs/.
        accelerator: Kind of device.
        devices: Processes, one device each; `data.batch_size` images are divided among them.
        strategy: What each of several processes has: a copy of the network and of the optimiser's
            state (ddp, the default), or a part of them (fsdp), which needs less memory and sends
            more.
        sync_batchnorm: Normalise over the images of all processes together, not of each alone.
        threads: CPU threads of a process; by default torch's choice.
        precision: Number format; mixed ones keep weights in float32.
        accumulate: Batches whose gradients are averaged for one step.
        clip_norm: Upper limit of the norm of all gradients together. The adaptive local learning
            rate comes later, so adder weights are not affected.
        ema: Decay of a moving average of the weights, which is then what is tested and saved.
        compile: How torch.compile treats the training step: not at all (none), fused kernels
            (default), these in CUDA graphs (reduce-overhead), or moreover the fastest of several
            for each operator (max-autotune). True means default, and false none. Steps whose norm
            is annealed are not compiled.
        checkpoint_every: Steps between checkpoints within an epoch; none by default. There is
            always one at the end of an epoch.
        log_every: Steps between the points of the TensorBoard log; on an accelerator also between
            looks at whether loss and gradients are finite, as each look waits for the device.
        tensorboard: Write a TensorBoard log.
        progress: A bar on a terminal and a line per epoch elsewhere (auto), or nothing (none).
    """

    epochs: int = 40
    seed: int = 0
    output: str | None = None
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    sync_batchnorm: bool = False
    threads: int | None = None
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed"] = "32-true"
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] | bool = "none"
    checkpoint_every: int | None = None
    log_every: int = 50
    tensorboard: bool = True
    progress: Literal["auto", "none"] = "auto"

    def __post_init__(self) -> None:
        function = "TrainerConfig"
        require_choice(function, "accelerator", self.accelerator, _ACCELERATORS)
        require_choice(function, "strategy", self.strategy, _STRATEGIES)
        require_choice(function, "precision", self.precision, _PRECISIONS)
        require_choice(function, "progress", self.progress, ("auto", "none"))
        if isinstance(self.compile, bool):
            object.__setattr__(self, "compile", "default" if self.compile else "none")
        require_choice(function, "compile", self.compile, _COMPILE)
        require(function, "seed", self.seed, 0 <= self.seed < 2**32, "lie in [0, 2^32)")
        for name in (
            "epochs",
            "devices",
            "threads",
            "accumulate",
            "checkpoint_every",
            "log_every",
        ):
            value = getattr(self, name)
            if value is not None:
                require(function, name, value, value >= 1, "be at least 1")
        if self.accumulate > 1 and self.compile in _CUDA_GRAPHS:
            raise ConfigError(
                f"{function}: `accumulate` must be 1 with compile {self.compile}, whose CUDA "
                f"graphs overwrite the gradients that would be added up, got {self.accumulate}"
            )
        if self.strategy == "fsdp" and self.compile != "none":
            raise ConfigError(
                f"{function}: `compile` must be none with strategy fsdp, which gathers weights "
                f"between layers, got {self.compile}"
            )
        if self.clip_norm is not None:
            require(function, "clip_norm", self.clip_norm, self.clip_norm > 0, "be positive")
        if self.ema is not None:
            require(function, "ema", self.ema, 0 < self.ema < 1, "lie in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run. The defaults train a small adder network on digits.

    Attributes:
        model: The network.
        data: The images.
        method: How the network learns.
        optimizer: How its parameters are updated.
        schedule: How the learning rate goes.
        norm: The norm of adder layers.
        trainer: Length, devices and files of the run.
    """

    model: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(batch_size=64))
    method: MethodConfig = field(default_factory=supervised.Config)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    norm: NormConfig = field(default_factory=NormConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as nested dicts of plain values."""
        return asdict(self)

    def to_yaml(self) -> str:
        """The configuration as a file that `read_config` takes."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The configuration that `to_dict` gave; sections and options left out get defaults.

        Values have the types of the options already: nothing is parsed, as it is by `read_config`.

        Raises:
            ConfigError: An option is unknown or has a bad value.
        """
        method = _method_of([values])
        _check_sections(values, method, "the configuration")
        whole = _merged(_defaults(method), values)
        kinds = _sections(method)
        return cls(**{name: _section(kind, name, whole[name]) for name, kind in kinds.items()})


def read_config(words: Sequence[str], base: TrainConfig | None = None) -> TrainConfig:
    """The configuration given by command line words.

    Args:
        words: Dotted options such as `--optimizer.lr=0.05`, of which the later one wins, and
            `--config FILE.yaml`, likewise. Options win over files.
        base: Values of what is not given; the defaults of `TrainConfig` otherwise.

    Raises:
        ConfigError: An option is unknown or abbreviated, or has a bad value, or a file cannot be
            read.
    """
    paths, rest = take_option(words, "--config")
    files = {path: _read_yaml(path) for path in paths}
    values: dict[str, Any] = {} if base is None else base.to_dict()
    method = _method_of([values, *files.values()], rest)
    for path, content in files.items():
        _check_sections(content, method, path)
        values = _merged(values, content)
    for name in _options(rest):
        if not name.startswith("model.options."):
            _check_known(name, method, "the command line")
    values = _merged(values, {"method": {"name": method}})
    parser = build_parser(method)
    start = _parsed(parser, lambda: parser.parse_object(values))
    parser.set_defaults(dict(leaves(start.to_dict())))
    return _parsed(parser, lambda: parser.parse_args(rest))


def help_parser(words: Sequence[str]) -> jsonargparse.ArgumentParser:
    """The parser of all options, those of the method as the words and files choose it.

    Raises:
        ConfigError: There is no such method, or a file cannot be read.
        BackendUnavailableError: The package that parses options is not installed.
    """
    paths, rest = take_option(words, "--config")
    method = _method_of([_read_yaml(path) for path in paths], rest)
    parser = build_parser(method)
    others = ", ".join(name for name in METHODS if name != method)
    parser.epilog = (
        f"The options of method.* are those of {method}; of another method ({others}) they are "
        "shown with --method.name NAME --help."
    )
    return parser


def take_option(words: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """The values of an option that stands for a file, and the words without it.

    Raises:
        ConfigError: Nothing follows the option.
    """
    values: list[str] = []
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if name != option:
            rest.append(word)
            continue
        file = value if equals else next(remaining, None)
        if not file:
            raise ConfigError(f"train: `{option}` must be followed by a file")
        values.append(file)
    return values, rest


def build_parser(method: str) -> jsonargparse.ArgumentParser:
    """The parser of all options of a run with a method.

    Raises:
        BackendUnavailableError: The package that parses options is not installed.
    """
    parser: jsonargparse.ArgumentParser = _jsonargparse().ArgumentParser(
        prog="mulfree train",
        description="Train a network. Without options, a small adder network on digits.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="file with options; may be repeated")
    for name, kind in _sections(method).items():
        parser.add_class_arguments(kind, name)
    parser.set_defaults(dict(leaves(_defaults(method))))
    return parser


def _jsonargparse() -> Any:
    # Only here, so that a run can be configured in Python and resumed without it.
    try:
        return importlib.import_module("jsonargparse")
    except ImportError as error:
        raise BackendUnavailableError(
            "train: options need jsonargparse: pip install 'jsonargparse[signatures]'"
        ) from error


def _sections(method: str) -> dict[str, type]:
    default = TrainConfig()
    kinds = {section.name: type(getattr(default, section.name)) for section in fields(default)}
    return {**kinds, "method": get_method(method).Config}


def _defaults(method: str) -> dict[str, Any]:
    return TrainConfig(method=get_method(method).Config()).to_dict()  # type: ignore[call-arg]


def _section(kind: type, name: str, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    return kind(**{key: _typed(f"{name}.{key}", v, hints[key]) for key, v in values.items()})


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` where it is of the type of the option `name`; an integer is also a float."""
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    # Which one of several words it is, is for the section to check, as for one made in Python.
    kinds = [str if get_origin(h) is Literal else get_origin(h) or h for h in hints]
    if type(value) in kinds:
        return value
    if type(value) is int and float in kinds:
        return float(value)
    if type(value) is list and tuple in kinds:
        return tuple(value)
    wanted = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
    raise ConfigError(f"train: `{name}` must be {wanted}, got {value!r}")


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options by their dotted names; `model.options` is one option."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name != "model.options":
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def _method_of(mappings: Sequence[Mapping[str, Any]], words: Sequence[str] = ()) -> str:
    name: object = supervised.Config().name
    for values in mappings:
        section = values.get("method")
        name = section.get("name", name) if isinstance(section, Mapping) else name
    given = _options(words).get("method.name")
    return get_method(str(name if given is None else given)).Config().name  # type: ignore[call-arg]


def _options(words: Sequence[str]) -> dict[str, str | None]:
    """The options among the words and their values; the last one of a name wins."""
    found: dict[str, str | None] = {}
    for index, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = words[index + 1] if index + 1 < len(words) else None
            found[name] = value if equals else following
    return found


def _merged(values: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with what `other` has in its place, section by section."""
    result = dict(values)
    for key, value in other.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ConfigError(
            f"train: `--config` must be a readable YAML file, got {path}: {_one_line(reason)}"
        ) from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(
            f"train: `--config` must hold sections of options, got {path} with a "
            f"{type(values).__name__}"
        )
    return values


def _check_sections(values: Mapping[str, Any], method: str, source: str) -> None:
    sections = _sections(method)
    for key, section in values.items():
        if key in sections and not isinstance(section, Mapping):
            raise ConfigError(
                f"train: `{key}` must be a section of options, got {section!r} in {source}"
            )
    for name, _ in leaves(values):
        _check_known(name, method, source)


def _check_known(name: str, method: str, source: str) -> None:
    known = [known for known, _ in leaves(_defaults(method))]
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    if not near:
        # A right name in no section or in the wrong one.
        last = str(name).rpartition(".")[2]
        near = [full for full in known if full.rpartition(".")[2] == last][:1]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"train: unknown option {name!r} in {source}{hint}")


def _parsed(parser: jsonargparse.ArgumentParser, parse: Any) -> TrainConfig:
    try:
        sections = parser.instantiate(parse())
    except _jsonargparse().ArgumentError as error:
        raise ConfigError(f"train: {_explained(str(error))}") from error
    return TrainConfig(**{section.name: sections[section.name] for section in fields(TrainConfig)})


def _explained(message: str) -> str:
    """The message of jsonargparse as one line that says what is required and what was given."""
    key = re.search(r'Parser key "([^"]+)"', message)
    given = re.search(r"(?:Given value|Got value): (.*)", message, re.DOTALL)
    expected = re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[([^\]]*)\])", message)
    if not (key and given and expected):
        return _one_line(message)
    kinds = " or ".join(kind or f"one of {choices}" for kind, choices in expected)
    kinds = kinds.replace("NoneType", "null")
    return f"`{key[1]}` must be {kinds}, got {_one_line(given[1])}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
