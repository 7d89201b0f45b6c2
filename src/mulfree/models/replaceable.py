"""Checks that layers can be replaced, and losses of their replacement."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mulfree.errors import ConfigError, quoted
from mulfree.models.references import held_outside
from mulfree.models.wrappers import is_distributed

_MAX_LISTED = 5

# Arguments of layers without a default, and further arguments of the geometry.
_CONV = (
    ("in_channels", "out_channels", "kernel_size"),
    ("stride", "padding", "dilation", "groups"),
)
_LINEAR = (("in_features", "out_features"), ())

# All activations of torch with nearly zero or constant output for large negative inputs.
_ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Mish,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
    nn.Threshold,
)
# Files of torch.nn.modules whose modules keep negative numbers negative.
_SIGN_KEEPING_FILES = ("dropout", "flatten", "padding", "pixelshuffle", "pooling", "upsampling")


@dataclass(kw_only=True)
class ReplaceableLayer:
    """A convolution or linear layer of a model, with all its names."""

    module: nn.Module
    names: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """First name; the class if the layer is the model itself."""
        return self.names[0] or type(self.module).__name__


def listed(names: Sequence[str]) -> str:
    """First names, and the number of further ones."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def check_replaceable(model: nn.Module, layers: Sequence[ReplaceableLayer]) -> None:
    """Refuse replacements that would silently lose something or remain unused.

    Args:
        model: The network, with its wrappers.
        layers: The layers to replace.

    Raises:
        ConfigError: A replacement would break something else.
    """
    for module in model.modules():
        if layers and is_distributed(module):
            raise ConfigError(
                "convert: `model` must be converted before it is distributed, got a "
                f"{type(module).__name__}, which keeps references to their parameters"
            )
    owners: dict[Tensor, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, []).append(name)
    parents = _parents(model)
    for layer in layers:
        _check_layer(layer, parents[layer.module], owners)
    names = {layer.module: layer.name for layer in layers}
    for module, where in held_outside(model, names):
        raise ConfigError(
            "convert: `model` must hold the layers to change as registered modules alone, got "
            f"{names[module]} or its weight in {where}, which would keep the old one; "
            "register it there too (in an nn.ModuleList or nn.ModuleDict) or keep it"
        )


def _parents(model: nn.Module) -> dict[nn.Module, list[nn.Module]]:
    parents: dict[nn.Module, list[nn.Module]] = {model: []}
    for parent in model.modules():
        for child in parent.children():
            parents.setdefault(child, []).append(parent)
    return parents


def _check_layer(
    layer: ReplaceableLayer, parents: Iterable[nn.Module], owners: Mapping[Tensor, Sequence[str]]
) -> None:
    module = layer.module
    if any(isinstance(parent, nn.TransformerEncoderLayer) for parent in parents):
        raise ConfigError(
            "convert: `model` must call the layers to change, got a TransformerEncoderLayer "
            f"that multiplies with the weights of {layer.name} itself; keep it"
        )
    if parametrize.is_parametrized(module):
        raise ConfigError(
            "convert: `model` must have no parametrizations (weight_norm, spectral_norm) on the "
            f"layers to change, got one on {layer.name}; remove or keep it"
        )
    mode = getattr(module, "padding_mode", "zeros")
    if mode != "zeros":
        raise ConfigError(
            "convert: `model` must pad with zeros in the layers to change, "
            f"got padding_mode={mode!r} in {layer.name}; keep it or pad before it"
        )
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        raise ConfigError(
            "convert: `model` must have no hooks on the layers to change, got some on "
            f"{layer.name} (weight_norm and spectral_norm are hooks too); remove or keep it"
        )
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise ConfigError(
            "convert: `model` must have a weight in the layers to change, got "
            f"{quoted(weight)} in {layer.name}; keep it"
        )
    if not weight.is_floating_point():
        raise ConfigError(
            "convert: `model` must have weights of a floating-point type in the layers to change, "
            f"got {weight.dtype} in {layer.name}; keep it"
        )
    with torch.device("meta"):  # Draws no random numbers.
        usual = made_like(module, type(module), {}).weight
    assert isinstance(usual, Tensor)
    if weight.shape != usual.shape:
        raise ConfigError(
            f"convert: `model` must have a weight of {list(usual.shape)} in {layer.name}, to match "
            f"its attributes, got {list(weight.shape)}; correct these or keep it"
        )
    for parameter in module.parameters():
        if hasattr(parameter, "device_mesh"):
            raise ConfigError(
                "convert: `model` must be converted before it is distributed, got a sharded "
                f"parameter in {layer.name}"
            )
        if len(owners[parameter]) > 1:
            raise ConfigError(
                "convert: `model` must not tie parameters of the layers to change, got one "
                f"shared by {' and '.join(owners[parameter])}; keep them"
            )


def made_like(layer: nn.Module, cls: type[nn.Module], options: Mapping[str, Any]) -> nn.Module:
    """Create a layer of the class `cls` with the geometry of `layer`.

    Args:
        layer: A convolution or linear layer.
        cls: A class with the constructor of `torch.nn.Conv2d` or `torch.nn.Linear`, like `layer`.
        options: Further arguments.
    """
    have = vars(layer)
    sizes, geometry = _LINEAR if is_linear(layer) else _CONV
    arguments = {name: have[name] for name in geometry}
    bias = getattr(layer, "bias", None) is not None
    return cls(*(have[name] for name in sizes), **arguments, bias=bias, **options)


def is_linear(layer: nn.Module) -> bool:
    """Return whether a layer is linear rather than a convolution."""
    return not hasattr(layer, "kernel_size")


def losses(layer: nn.Module) -> list[str]:
    """Names of the differences between a layer and a new one of its class."""
    cls = type(layer)
    options = {
        name: vars(layer)[name]
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty and name in vars(layer) and name not in _CONV[1]
    }
    with torch.device("meta"):  # Draws no random numbers.
        fresh = made_like(layer, cls, options)
    lost = []
    for kind, registered in (
        ("parameter", "_parameters"),
        ("buffer", "_buffers"),
        ("child", "_modules"),
    ):
        usual = getattr(fresh, registered)
        lost += [f"{kind} {name}" for name in getattr(layer, registered) if name not in usual]
    for key, value in vars(layer).items():
        if key not in vars(fresh):
            lost.append("replaced forward" if key == "forward" else f"attribute {key}")
        elif isinstance(value, dict) and "hooks" in key and value:
            lost.append(f"hooks in {key}")
        elif isinstance(value, (bool, int, str, tuple)) and key != "training":
            usual = vars(fresh)[key]
            # A cache for padding modes that are refused.
            if usual != value and key != "_reversed_padding_repeated_twice":
                lost.append(f"attribute {key}")
    for name, parameter in layer.named_parameters(recurse=False):
        lost += [f"{what} of {name}" for what in _extras(parameter)]
    return lost


def _extras(parameter: nn.Parameter) -> Iterator[str]:
    if not parameter.requires_grad:
        yield "requires_grad=False"
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        yield "hooks"
    # Marks of this library are set again.
    yield from (f"attribute {key}" for key in vars(parameter) if not key.startswith("mulfree_"))


def zeroed_in_sequence(model: nn.Module, adders: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Layers followed by an activation without batch norm between in a `torch.nn.Sequential`."""
    candidates = set(adders)
    for sequence in model.modules():
        if type(sequence) is not nn.Sequential:
            continue
        pending: nn.Module | None = None
        for module in sequence:
            if module in candidates:
                pending = module
            elif pending is not None and isinstance(module, _ACTIVATIONS):
                yield pending
            elif not isinstance(module, nn.Identity) and (
                not type(module).__module__.startswith("torch.nn.modules.")
                or type(module).__module__.rpartition(".")[2] not in _SIGN_KEEPING_FILES
            ):
                pending = None
