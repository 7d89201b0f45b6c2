"""Registry of models: registration, listing and creation by name."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar, get_type_hints

from torch import nn

from mulfree import operators
from mulfree.errors import ConfigError, choices_message
from mulfree.models import families
from mulfree.models.images import ImageSpec
from mulfree.models.meta import skipped_initialisation
from mulfree.models.options import COMMON_OPTIONS as COMMON_OPTIONS
from mulfree.models.options import ModelOptions as ModelOptions
from mulfree.models.options import ScalableOptions as ScalableOptions
from mulfree.models.options import check_count as check_count
from mulfree.models.options import check_type
from mulfree.models.placement import Placement, placed
from mulfree.models.wrappers import unwrapped


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Configuration of a model: `create_model(name, **arguments)` rebuilds the same network.

    Attributes:
        name: Registered name.
        arguments: All arguments of `create_model`, defaults included, as JSON values.
        images: Images of the training, if known; not compared.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    images: ImageSpec | None = field(default=None, compare=False)


_Options = TypeVar("_Options", bound=ModelOptions)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    build: Callable[[Any], nn.Module]
    options: type[ModelOptions]
    defaults: Mapping[str, Any]
    image_size: int


_ENTRIES: dict[str, _Entry] = {}
_CONFIG_ATTRIBUTE = "mulfree_config"
OPERATOR_KEY = "operator"
"""Key of the operator of a layer in the metadata of a state dict."""


def register_model(
    build: Callable[[_Options], nn.Module],
    *,
    name: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    image_size: int | None = None,
) -> Callable[[_Options], nn.Module]:
    """Register a function as the model of its name, or as one of several variants.

    The function takes one argument, annotated with the `Config` of its family, whose fields are the
    options of the model. It returns a network of `torch.nn.Conv2d` and `torch.nn.Linear` layers
    with first layer and classifier first and last in order of registration.
    The family must be listed in `mulfree.models.families.FAMILIES`.

    Args:
        build: The function.
        name: Name of the model; None for the function's.
        defaults: Defaults of options where they differ from the `Config`'s.
        image_size: Side of the images that the model is designed for; None for the `Config`'s.

    Raises:
        ConfigError: The name is taken by a function of another module.
    """
    name = name or build.__name__
    known = _ENTRIES.get(name)
    if known is not None and known.build.__module__ != build.__module__:
        raise ConfigError(
            f"register_model: `build` must have a name that is not taken, got {name!r}, "
            f"which is in {known.build.__module__}"
        )
    hints = get_type_hints(build)
    hints.pop("return", None)
    (options,) = hints.values()
    _ENTRIES[name] = _Entry(
        build=build,
        options=options,
        defaults=dict(defaults or {}),
        image_size=image_size or options.image_size,
    )
    return build


def list_models(pattern: str = "*") -> list[str]:
    """Return the registered names that match a glob pattern, sorted."""
    return sorted(fnmatch.filter(_entries(), pattern))


def variants(name: str) -> list[str]:
    """Return the names that were registered for the function of a model, sorted.

    Raises:
        ConfigError: No model has this name.
    """
    build = _entry(name).build
    return sorted(other for other, entry in _entries().items() if entry.build is build)


def model_options(name: str) -> dict[str, Any]:
    """Return the options of a model with defaults; `norm_logits` None depends on the operator.

    Raises:
        ConfigError: No model has this name.
    """
    entry = _entry(name)
    options = {option.name: option.default for option in fields(entry.options)}
    return {**options, **entry.defaults, **asdict(Placement()), "norm_logits": None}


def image_size(name: str) -> int:
    """Return the side of the images that a model is designed for; others work too.

    Raises:
        ConfigError: No model has this name.
    """
    return _entry(name).image_size


@skipped_initialisation()
def create_model(
    name: str,
    *,
    operator: str = "conv2d",
    num_classes: int = 10,
    in_channels: int = 3,
    **options: Any,
) -> nn.Module:
    """Create a randomly initialised network from images `[N, C_in, H, W]` to logits `[N, classes]`.

    The first and the last layer multiply, as in the papers; every other layer, 1x1 shortcuts
    included, is one of `operator`. The model config is attached to the model, see `config_of`.

    Args:
        name: One of `list_models()`.
        operator: One of `mulfree.operators.OPERATORS`.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        **options: Options of the model, see `model_options(name)`. All models have `width`
            (multiplier of the numbers of channels), `norm_logits` (batch normalisation of the
            logits; by default as published: unless the operator is conv2d), `gradient` (gradient
            rule of the operator's layers) and `keep` (layers that multiply, see `convert`).

    Raises:
        ConfigError: Unknown model, operator or option, or an invalid value.

    References:
        arXiv 1912.13200; which layers multiply: resnet20.py of github.com/huawei-noah/AdderNet.
    """
    choices = model_options(name)
    for option in options:
        if option not in choices:
            raise ConfigError(choices_message("create_model", "options", option, choices))
    check_type("operator", operator, str)
    own = (option.name for option in fields(Placement))
    placement = Placement(**{key: options.pop(key) for key in own if key in options})
    if options.get("norm_logits") is None:
        options["norm_logits"] = operator != "conv2d"
    options |= {"num_classes": num_classes, "in_channels": in_channels}
    operators.get_operator(operator)
    resolved = resolved_options(name, options)
    network = build_network(name, resolved)
    model = placed(network, operator, placement, resolved.multiplying(network))
    arguments = {"operator": operator, **asdict(resolved), **asdict(placement)}
    arguments["keep"] = list(placement.keep)
    config = ModelConfig(name=name, arguments=arguments)
    _attach(model, config)
    model.register_state_dict_post_hook(_record_operators)
    return model


def resolved_options(name: str, options: Mapping[str, Any]) -> ModelOptions:
    """Return the options of the network of a name, its defaults for the ones that are not given.

    Args:
        name: A registered model.
        options: Options of its family, without operator, `gradient` and `keep`.

    Raises:
        ConfigError: Unknown model or option, or an invalid value.
    """
    entry = _entry(name)
    choices = [option.name for option in fields(entry.options)]
    for option in options:
        if option not in choices:
            raise ConfigError(choices_message("create_model", "options", option, choices))
    return entry.options(**{**entry.defaults, **options})


@skipped_initialisation()
def build_network(name: str, options: ModelOptions) -> nn.Module:
    """Return the network of `torch.nn` layers of a name and its options.

    Raises:
        ConfigError: No model has this name, or an invalid value.
    """
    return _entry(name).build(options)


def family_of(name: str) -> str:
    """Return the name of the family that a model belongs to.

    Raises:
        ConfigError: No model has this name.
    """
    return _entry(name).build.__module__.rpartition(".")[2]


def config_of(model: nn.Module) -> ModelConfig:
    """Return the model config attached by `create_model`.

    Raises:
        ConfigError: The model was not built by `create_model`.
    """
    config = getattr(unwrapped(model), _CONFIG_ATTRIBUTE, None)
    if not isinstance(config, ModelConfig):
        raise ConfigError(
            "config_of: `model` must be one that create_model built, "
            f"got a {type(model).__name__} without a model config"
        )
    return config


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Return C, H, W of the images of the training or, if unknown, of the design.

    Raises:
        ConfigError: The model was not built by `create_model`.
    """
    config = config_of(model)
    if config.images is not None:
        return config.images.size
    # A model that contains another is designed for the images of that one.
    side = image_size(config.arguments.get("network", config.name))
    return (config.arguments["in_channels"], side, side)


def set_images(model: nn.Module, images: ImageSpec) -> None:
    """Record the images of the training in the model config, which copies and files keep.

    Raises:
        ConfigError: The model was not built by `create_model`, or does not take such images.
    """
    config = config_of(model)
    for key, given in (("in_channels", images.size[0]), ("num_classes", len(images.classes))):
        if config.arguments[key] != given:
            raise ConfigError(
                f"set_images: `images` must have {key} {config.arguments[key]} as the model has "
                f"it, got {given}"
            )
    _attach(unwrapped(model), replace(config, images=images))


def _attach(model: nn.Module, config: ModelConfig) -> None:
    # A plain attribute, which deepcopy and pickle copy.
    object.__setattr__(model, _CONFIG_ATTRIBUTE, config)


def _record_operators(
    model: nn.Module, state: dict[str, Any], prefix: str, _: dict[str, Any]
) -> None:
    """Record the operator of every layer beside its version in the metadata of a state dict.

    Tensors have the names and shapes of a convolution for every operator.
    """
    metadata = getattr(state, "_metadata", {})
    for name, layer in model.named_modules(prefix=prefix.removesuffix(".")):
        operator = operators.operator_of(layer)
        if operator is not None and name in metadata:
            metadata[name][OPERATOR_KEY] = operator.name


def _entries() -> dict[str, _Entry]:
    """Models of the listed families, which are imported on the first call."""
    for family in families.FAMILIES:
        importlib.import_module(f"{families.__name__}.{family}")
    return _ENTRIES


def _entry(name: str) -> _Entry:
    entries = _entries()
    if not isinstance(name, str) or name not in entries:
        raise ConfigError(choices_message("create_model", "name", name, entries))
    return entries[name]
