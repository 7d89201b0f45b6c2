"""The configuration of a run: typed sections, read from YAML files and dotted options."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from mulfree.data import DataConfig
from mulfree.errors import BackendUnavailableError, ConfigError, printable, quoted
from mulfree.files import expand_paths, expanded
from mulfree.training.checks import require, require_choice, require_count
from mulfree.training.methods import METHODS, get_method, supervised
from mulfree.training.optim.local_lr import OptimizerConfig
from mulfree.training.optim.p_annealing import NormConfig
from mulfree.training.optim.schedule import ScheduleConfig
from mulfree.training.run.plain import parse, read, write
from mulfree.training.run.typed import members, names, typed
from mulfree.training.task import MethodConfig

if TYPE_CHECKING:
    import jsonargparse

_ACCELERATORS = ("auto", "cpu", "cuda")
_STRATEGIES = ("auto", "ddp", "fsdp")
_PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed")
_COMPILE = ("none", "default", "reduce-overhead", "max-autotune")
_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
_MAX_THREADS = 1024
_MAX_DEVICES = 2**16


Scalar: TypeAlias = bool | int | float | str | None
Option: TypeAlias = Scalar | list[Scalar] | dict[str, Scalar]
"""Type of an option of a network: data, never a class or anything else that is built."""
# How the names of these options begin.
_OPTIONS = "model.options."
_NEGATIVE = re.compile(r"-[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?")
_MAX_NAME = 100


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
    options: dict[str, Option] = field(default_factory=dict)


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
        expand_paths(function, self, "output")
        require_choice(function, "accelerator", self.accelerator, _ACCELERATORS)
        require_choice(function, "strategy", self.strategy, _STRATEGIES)
        require_choice(function, "precision", self.precision, _PRECISIONS)
        require_choice(function, "progress", self.progress, ("auto", "none"))
        if isinstance(self.compile, bool):
            object.__setattr__(self, "compile", "default" if self.compile else "none")
        require_choice(function, "compile", self.compile, _COMPILE)
        require(function, "seed", self.seed, 0 <= self.seed < 2**32, "lie in [0, 2^32)")
        for name in ("epochs", "accumulate", "log_every"):
            require_count(function, name, getattr(self, name))
        require_count(function, "devices", self.devices, _MAX_DEVICES)
        if self.threads is not None:
            require_count(function, "threads", self.threads, _MAX_THREADS)
        if self.checkpoint_every is not None:
            require_count(function, "checkpoint_every", self.checkpoint_every)
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
        return write(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The configuration that `to_dict` gave; sections and options left out get defaults.

        Values have the types of the options already: nothing is parsed.

        Raises:
            ConfigError: An option is unknown or has a bad value.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"train: `values` must be a table, got {quoted(values)}")
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
    files = {path: _read_file(path) for path in paths}
    values: dict[str, Any] = {} if base is None else base.to_dict()
    given = _options(rest)
    method = _method_of([values, *files.values()], given)
    for path, content in files.items():
        _check_sections(content, method, path)
        values = _merged(values, content)
    for name, text in given:
        if not name.startswith(_OPTIONS):
            _check_known(name, method, "the command line")
        if text is None:
            raise ConfigError(f"train: argument --{name}: expected one argument")
    values = _merged(values, {"method": {"name": method}})
    kinds = _sections(method)
    for name, text in given:
        section, _, key = name.partition(".")
        hint = get_type_hints(kinds[section])[key.partition(".")[0]]
        if name.startswith(_OPTIONS):
            options = values.setdefault(section, {}).setdefault("options", {})
            options[name.removeprefix(_OPTIONS)] = _plain_option(name, str(text))
        else:
            values.setdefault(section, {})[key] = _worded(name, str(text), hint)
    return TrainConfig.from_dict(values)


def help_parser(words: Sequence[str]) -> jsonargparse.ArgumentParser:
    """The parser of all options, those of the method as the words and files choose it.

    Raises:
        ConfigError: There is no such method, or a file cannot be read.
        BackendUnavailableError: The package that parses options is not installed.
    """
    paths, rest = take_option(words, "--config")
    method = _method_of([_read_file(path) for path in paths], _options(rest))
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
        if word == "--":
            rest += [word, *remaining]
            break
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
    """All options of a run with a method, for their help; values never reach this parser.

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
    for action in parser._actions:
        if action.dest in _sections(method):
            # A whole section from another file, which is not read.
            action.help = argparse.SUPPRESS
    parser.set_defaults(dict(leaves(_defaults(method))))
    return parser


def _jsonargparse() -> Any:
    # Only here, so that a run can be configured in Python and resumed without it.
    try:
        return importlib.import_module("jsonargparse")
    except ImportError as error:
        raise BackendUnavailableError(
            "train: `--help` needs jsonargparse: pip install 'jsonargparse[signatures]'"
        ) from error


def _sections(method: str) -> dict[str, type]:
    default = TrainConfig()
    kinds = {section.name: type(getattr(default, section.name)) for section in fields(default)}
    return {**kinds, "method": get_method(method).Config}


def _defaults(method: str) -> dict[str, Any]:
    return TrainConfig(method=get_method(method).Config()).to_dict()  # type: ignore[call-arg]


def _section(kind: type, name: str, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    return kind(**{key: _checked(f"{name}.{key}", v, hints[key]) for key, v in values.items()})


def _checked(name: str, value: object, hint: Any) -> Any:
    try:
        return typed(value, hint)
    except TypeError as error:
        raise ConfigError(f"train: `{name}` must be {error}, got {quoted(value)}") from error


def _worded(name: str, text: str, hint: Any) -> Any:
    """The value of an option that a word of the command line stands for."""
    kinds = members(hint)
    choices = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    # A path or a name may look like a number.
    if text in choices or (str in kinds and text != "null"):
        return _checked(name, text, str)
    try:
        value = parse(text) if text else text
        if isinstance(value, str):
            raise TypeError("a word is none of them")
        return typed(value, hint)
    except (TypeError, ValueError) as error:
        others = [kind for kind in kinds if kind is not str and get_origin(kind) is not Literal]
        words = [f"one of {', '.join(map(repr, choices))}"] if choices else []
        wanted = " or ".join([*words, *names(others)])
        if isinstance(error, ValueError):
            wanted += f" ({error})"
        raise ConfigError(
            f"train: `{name}` must be {wanted}, got {printable(text, _MAX_NAME)}"
        ) from error


def _plain_option(name: str, text: str) -> Any:
    """The value of an option of the network, which may be of any plain type."""
    try:
        return typed(parse(text), Option)
    except (TypeError, ValueError) as error:
        wanted = f"plain data ({error})" if isinstance(error, ValueError) else str(error)
        raise ConfigError(
            f"train: `{name}` must be {wanted}, got {printable(text, _MAX_NAME)}"
        ) from error


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options by their dotted names; `model.options` is one option."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name != "model.options":
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def _method_of(
    mappings: Sequence[Mapping[str, Any]], given: Sequence[tuple[str, str | None]] = ()
) -> str:
    name: object = supervised.Config().name
    for values in mappings:
        section = values.get("method")
        name = section.get("name", name) if isinstance(section, Mapping) else name
    name = dict(given).get("method.name") or name
    return get_method(str(name)).Config().name  # type: ignore[call-arg]


def _options(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """The options in the words, and what is given for each; None where nothing is.

    Raises:
        ConfigError: A word belongs to no option.
    """
    found: list[tuple[str, str | None]] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--") or word == "--":
            stray = " ".join(remaining if word == "--" else [word])
            if stray:
                raise ConfigError(f"train: unrecognized arguments: {stray}")
            break
        name, equals, value = word[2:].partition("=")
        if equals:
            found.append((name, value))
        elif remaining and (remaining[0][:1] != "-" or _NEGATIVE.fullmatch(remaining[0])):
            found.append((name, remaining.pop(0)))
        else:
            found.append((name, None))
            if remaining and not remaining[0].startswith("--"):
                remaining.pop(0)
    return found


def _merged(values: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with what `other` has in its place, section by section."""
    result = dict(values)
    for key, value in other.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _read_file(path: str) -> dict[str, Any]:
    try:
        values = read(Path(expanded(path)))
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ConfigError(
            f"train: `--config` must be a readable YAML file, got {path}: {reason}"
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
        if not isinstance(section, Mapping):
            if key in sections:
                raise ConfigError(
                    f"train: `{key}` must be a section of options, got {quoted(section)} in "
                    f"{source}"
                )
            _check_known(str(key), method, source)
        for name in section:
            _check_known(f"{key}.{name}", method, source)
        if key not in sections:
            _check_known(str(key), method, source)


def _check_known(name: str, method: str, source: str) -> None:
    known = [full for full, _ in leaves(_defaults(method))]
    if name in known:
        return
    near = difflib.get_close_matches(name[:_MAX_NAME], known, n=1)
    if not near:
        # A right name in no section or in the wrong one.
        last = str(name).rpartition(".")[2]
        near = [full for full in known if full.rpartition(".")[2] == last][:1]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"train: unknown option {quoted(name)} in {source}{hint}")
