"""Configuration of a run: typed sections."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_type_hints

from mulfree import tasks
from mulfree._native import MAX_THREADS
from mulfree.data import DataConfig
from mulfree.errors import ConfigError, quoted
from mulfree.files import expand_paths
from mulfree.training import methods
from mulfree.training.checks import require, require_choice, require_count
from mulfree.training.method import MethodConfig
from mulfree.training.methods import get_method
from mulfree.training.optim.build import OptimizerConfig
from mulfree.training.optim.p_annealing import PAnnealingConfig
from mulfree.training.optim.schedule import ScheduleConfig
from mulfree.training.run.plain import write
from mulfree.training.run.renamed import renaming
from mulfree.training.run.typed import typed

_ACCELERATORS = ("auto", "cpu", "cuda")
_STRATEGIES = ("auto", "ddp", "fsdp")
_PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed")
_COMPILE = ("none", "default", "reduce-overhead", "max-autotune")
_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
_MAX_DEVICES = 2**16


Scalar: TypeAlias = bool | int | float | str | None
_Simple: TypeAlias = Scalar | list[Scalar]
Option: TypeAlias = _Simple | dict[str, _Simple | dict[str, _Simple]]
"""Type of an option of a network: plain data, never a class or an object."""
MAX_NAME = 100


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network; its classes and channels follow from the data.

    Attributes:
        name: A name of `mulfree.models.list_models()`.
        operator: Operator that replaces the convolutions.
        options: Further options of `mulfree.models.create_model`.
        pretrained: Weights to start from: a run's directory, a checkpoint (.ckpt), weights of
            mulfree (.safetensors), or published ones as `mulfree.models.load_published` reads them.
            The classifier is not loaded if the data have another number of classes.
        pretrained_exclude: Layers, or modules with layers, that are not loaded: names or glob
            patterns.
    """

    name: str = "lenet5_bn"
    operator: str = "adder2d"
    options: dict[str, Option] = field(default_factory=dict)
    pretrained: str | None = None
    pretrained_exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expand_paths("NetworkConfig", self, "pretrained")
        if self.pretrained_exclude and self.pretrained is None:
            raise ConfigError(
                "NetworkConfig: `pretrained_exclude` must be empty without pretrained, "
                f"got {quoted(self.pretrained_exclude)}"
            )


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """The task that the network is trained for.

    Attributes:
        name: Name of the task.
    """

    name: str = tasks.DEFAULT

    def __post_init__(self) -> None:
        require_choice("TaskConfig", "name", self.name, tasks.TASKS)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Length, devices, precision and files of a run.

    Attributes:
        epochs: Passes over the training images.
        seed: Seed of all random numbers: initialisation, order, augmentation.
        output: Directory of the run; by default a new one under runs/.
        accelerator: Kind of device.
        devices: Processes, one device each; `data.batch_size` images are divided among them.
        strategy: Replicate network and optimiser state in every process (ddp, the default), or
            shard them (fsdp), with less memory and more communication.
        sync_batchnorm: Batch norm over the images of all processes, not of each process.
        threads: CPU threads of a process; by default torch's choice.
        precision: Number format; mixed ones keep weights in float32.
        accumulate_grad_batches: Batches whose gradients are averaged for one step.
        gradient_clip_norm: Upper limit of the norm of all gradients together. The adaptive local
            learning rate is applied later, so adder weights are not affected.
        ema: Decay of a moving average of the weights; it is then tested and saved.
        compile: Mode of torch.compile for the training step: not compiled (none), fused kernels
            (default), fused kernels in CUDA graphs (reduce-overhead), or moreover autotuned
            (max-autotune). True means default, and false none. Steps with an annealed exponent are
            not compiled.
        checkpoint_every: Steps between checkpoints within an epoch; none by default. There is
            always one at the end of an epoch.
        log_every: Steps between the points of the TensorBoard log; on an accelerator also between
            checks that loss and gradients are finite, as each check waits for the device.
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
    accumulate_grad_batches: int = 1
    gradient_clip_norm: float | None = None
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
        for name in ("epochs", "accumulate_grad_batches", "log_every"):
            require_count(function, name, getattr(self, name))
        require_count(function, "devices", self.devices, _MAX_DEVICES)
        if self.threads is not None:
            require_count(function, "threads", self.threads, MAX_THREADS)
        if self.checkpoint_every is not None:
            require_count(function, "checkpoint_every", self.checkpoint_every)
        if self.accumulate_grad_batches > 1 and self.compile in _CUDA_GRAPHS:
            raise ConfigError(
                f"{function}: `accumulate_grad_batches` must be 1 with compile {self.compile}, "
                "whose CUDA graphs overwrite the gradients that would be added up, "
                f"got {self.accumulate_grad_batches}"
            )
        if self.strategy == "fsdp" and self.compile != "none":
            raise ConfigError(
                f"{function}: `compile` must be none with strategy fsdp, which gathers weights "
                f"between layers, got {self.compile}"
            )
        if (norm := self.gradient_clip_norm) is not None:
            require(function, "gradient_clip_norm", norm, norm > 0, "be positive")
        if self.ema is not None:
            require(function, "ema", self.ema, 0 < self.ema < 1, "lie in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Configuration of a run. The defaults train a small adder network on digits.

    Attributes:
        model: The network.
        data: The images.
        task: The task.
        method: The training method.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.
        p_annealing: The exponent of adder layers.
        trainer: Length, devices and files of the run.
    """

    model: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(batch_size=64))
    task: TaskConfig = field(default_factory=TaskConfig)
    method: MethodConfig = field(default_factory=lambda: _method_config(methods.DEFAULT))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    p_annealing: PAnnealingConfig = field(default_factory=PAnnealingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as nested dicts of plain values."""
        return asdict(self)

    def to_yaml(self) -> str:
        """Return the configuration as text of a file for `read_config`."""
        return write(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration of a result of `to_dict`; missing options get defaults.

        Values need the types of the options: nothing is parsed.

        Raises:
            ConfigError: An option is unknown or has a bad value.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"train: `values` must be a table, got {quoted(values)}")
        method = method_of([values])
        check_sections(values, method, "the configuration")
        whole = merged(defaults(method), values)
        kinds = sections(method)
        return cls(**{name: _section(kind, name, whole[name]) for name, kind in kinds.items()})


def sections(method: str) -> dict[str, type]:
    """Class of every section, with the options of a method."""
    default = TrainConfig()
    kinds = {section.name: type(getattr(default, section.name)) for section in fields(default)}
    return {**kinds, "method": get_method(method).config_class}


def _method_config(name: str) -> MethodConfig:
    return get_method(name).config_class()  # type: ignore[call-arg]


def defaults(method: str) -> dict[str, Any]:
    """Default of every option, with the options of a method."""
    return TrainConfig(method=_method_config(method)).to_dict()


def _section(kind: type, name: str, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    return kind(**{key: checked(f"{name}.{key}", v, hints[key]) for key, v in values.items()})


def checked(name: str, value: object, hint: Any) -> Any:
    """`value`, if it has the type of an option.

    Raises:
        ConfigError: It has another type.
    """
    try:
        return typed(value, hint)
    except TypeError as error:
        raise ConfigError(f"train: `{name}` must be {error}, got {quoted(value)}") from error


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield options by their dotted names; `model.options` is one option."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name != "model.options":
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def method_of(
    mappings: Sequence[Mapping[str, Any]], given: Sequence[tuple[str, str | None]] = ()
) -> str:
    """Method that nested values or command-line options choose; the last one wins.

    Raises:
        ConfigError: There is no such method.
    """
    name: object = methods.DEFAULT
    for values in mappings:
        section = values.get("method")
        name = section.get("name", name) if isinstance(section, Mapping) else name
    name = dict(given).get("method.name") or name
    return _method_config(str(name)).name


def merged(values: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` overridden by `other`, section by section."""
    result = dict(values)
    for key, value in other.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def check_sections(values: Mapping[str, Any], method: str, source: str) -> None:
    """Refuse sections and options that do not exist.

    Raises:
        ConfigError: One is unknown, or a section is no table.
    """
    known, options = sections(method), option_names(method)
    for key, section in values.items():
        if not isinstance(section, Mapping):
            if key in known:
                raise ConfigError(
                    f"train: `{key}` must be a section of options, got {quoted(section)} in "
                    f"{source}"
                )
            check_known(str(key), options, source)
        for name in section:
            check_known(f"{key}.{name}", options, source)
        if key not in known:
            check_known(str(key), options, source)


def option_names(method: str) -> list[str]:
    """Dotted names of all options, the ones of a method included."""
    return [name for name, _ in leaves(defaults(method))]


def check_known(name: str, known: Sequence[str], source: str) -> None:
    """Refuse an option that is not one of `known`, the result of `option_names`.

    Raises:
        ConfigError: It is unknown; the nearest name is suggested.
    """
    if name in known:
        return
    if hint := renaming(name):
        raise ConfigError(f"train: unknown option {quoted(name)} in {source}{hint}")
    near = difflib.get_close_matches(name[:MAX_NAME], known, n=1)
    if not near:
        # A known name without its section or in another one.
        last = str(name).rpartition(".")[2]
        near = [full for full in known if full.rpartition(".")[2] == last][:1]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"train: unknown option {quoted(name)} in {source}{hint}")
