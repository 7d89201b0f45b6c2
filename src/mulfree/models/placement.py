"""Which layers of a network multiply, and the change of all others to another operator."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from mulfree import operators
from mulfree.errors import ConfigError
from mulfree.operators import Operator

FIRST_AND_LAST = ("first", "last")


@dataclass(kw_only=True)
class _Layer:
    """A convolution or linear layer of the model, under every name it has there."""

    module: nn.Module
    names: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.names[0] or type(self.module).__name__


def convert(
    model: nn.Module,
    operator: str = "adder2d",
    keep: Sequence[str] = FIRST_AND_LAST,
    *,
    linear: bool = True,
    gradient: str | None = None,
) -> nn.Module:
    """Change the operator of the layers inside any model, in place.

    Every `torch.nn.Conv2d` and `torch.nn.Linear` (or layer of another mulfree operator) that is not
    kept becomes a layer of `operator` with the same geometry, device, dtype and mode and freshly
    initialised parameters. Layers that are of `operator` already keep theirs. Subclasses are left
    as they are, because their forward may be another one; so are transposed convolutions.
    Outputs of an adder layer need a normalisation after them, which is not added here.

    Args:
        model: Any torch model.
        operator: One of `mulfree.operators.OPERATORS`.
        keep: The layers to leave alone: "first" and "last" are the first and the last convolution
            or linear layer in the order in which the model registers them; anything else is the
            name, or a glob pattern of names, of layers or of modules that contain layers.
        linear: Whether linear layers are changed too.
        gradient: Gradient rule of the new layers, for operators that have rules.

    Returns:
        The model; a new layer if the model itself is the layer to change.

    Raises:
        ConfigError: Unknown operator or gradient rule, a name in `keep` that matches nothing, a
            model without layers, or a layer that cannot be changed without breaking something else.
            The model is then as it was.

    References:
        arXiv 1912.13200; which layers multiply: resnet20.py of github.com/huawei-noah/AdderNet.
    """
    target = operators.get_operator(operator)
    options = _rule(target, gradient)
    layers = _layers(model)
    kept = _kept(layers, keep)
    chosen = [
        layer
        for layer in layers
        if layer.name not in kept and (linear or not _is_linear(layer.module))
    ]
    same = [layer.module for layer in chosen if isinstance(layer.module, _classes(target))]
    owners = _parameter_owners(model)
    replacements: dict[nn.Module, nn.Module] = {}
    for layer in chosen:
        if layer.module not in same:
            _check_replaceable(model, layer, owners)
            replacements[layer.module] = _replacement(layer.module, target, options)
    for module in same:
        vars(module).update(options)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replacements:
                parent._modules[name] = replacements[child]
    return replacements.get(model, model)


def _classes(operator: Operator) -> tuple[type[nn.Module], ...]:
    return operator.conv, operator.linear


def _rule(target: Operator, gradient: str | None) -> dict[str, str]:
    """The gradient rule as an argument of the new layers; none where none is asked for."""
    if gradient is None:
        return {}
    if "gradient" not in inspect.signature(target.linear).parameters:
        raise ConfigError(
            f"convert: `gradient` must be None for operator {target.name!r}, "
            f"which has no gradient rules, got {gradient!r}"
        )
    with torch.device("meta"):  # Where no random numbers are drawn.
        target.linear(1, 1, gradient=gradient)  # Refuses an unknown rule before any change.
    return {"gradient": gradient}


def _layers(model: nn.Module) -> list[_Layer]:
    """The layers that can be changed, in order of registration."""
    classes = tuple(
        cls for name in operators.OPERATORS for cls in _classes(operators.get_operator(name))
    )
    layers: dict[nn.Module, _Layer] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LazyModuleMixin) and isinstance(module, classes):
            raise ConfigError(
                f"convert: `model` must have no lazy layers left, got {name} = {module}; "
                "run one batch through the model first"
            )
        if type(module) in classes:
            layers.setdefault(module, _Layer(module=module)).names.append(name)
    if not layers:
        raise ConfigError(
            "convert: `model` must contain a convolution or linear layer, "
            f"got a {type(model).__name__} without any"
        )
    return list(layers.values())


def _kept(layers: list[_Layer], keep: Sequence[str]) -> set[str]:
    """Names of the layers that `keep` names."""
    if (
        isinstance(keep, str)
        or not isinstance(keep, Sequence)
        or not all(isinstance(pattern, str) for pattern in keep)
    ):
        raise ConfigError(f"convert: `keep` must be a sequence of names, got {keep!r}")
    kept = set()
    for pattern in keep:
        if pattern in FIRST_AND_LAST:
            matches = {layers[0 if pattern == "first" else -1].name}
        else:
            matches = {
                layer.name
                for layer in layers
                if any(fnmatch.fnmatchcase(part, pattern) for part in _parts(layer.names))
            }
        if not matches:
            names = sorted({part for layer in layers for part in _parts(layer.names)})
            near = difflib.get_close_matches(pattern, names, n=1)
            raise ConfigError(
                "convert: `keep` must name layers of the model (or be first or last), "
                f"got {pattern!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        kept |= matches
    return kept


def _parts(names: Iterable[str]) -> set[str]:
    """The names and those of the modules around them: `a.b.c` gives `a`, `a.b` and `a.b.c`."""
    return {
        ".".join(parts[: end + 1])
        for parts in (name.split(".") for name in names)
        for end in range(len(parts))
    }


def _is_linear(module: nn.Module) -> bool:
    return not hasattr(module, "kernel_size")


def _parameter_owners(model: nn.Module) -> dict[Tensor, list[str]]:
    """For every parameter the modules that hold it, so that tied ones are seen."""
    owners: dict[Tensor, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, []).append(name)
    return owners


def _check_replaceable(model: nn.Module, layer: _Layer, owners: dict[Tensor, list[str]]) -> None:
    """Refuse what a new layer would silently drop, or what would silently not use it."""
    module = layer.module
    parents = [model.get_submodule(name.rpartition(".")[0]) for name in layer.names]
    if any(isinstance(parent, nn.TransformerEncoderLayer) for parent in parents):
        raise ConfigError(
            "convert: `model` must call the layers to change, got a TransformerEncoderLayer "
            f"that multiplies with the weights of {layer.name} itself; keep it"
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
    for parameter in module.parameters():
        if len(owners[parameter]) > 1:
            raise ConfigError(
                "convert: `model` must not tie parameters of the layers to change, got one "
                f"shared by {' and '.join(owners[parameter])}; keep them"
            )


def _replacement(old: nn.Module, target: Operator, options: dict[str, str]) -> nn.Module:
    """A layer of `target` in the place of `old`."""
    weight, bias = old.weight, old.bias is not None
    assert isinstance(weight, Tensor)
    with torch.device(weight.device):
        if _is_linear(old):
            new = target.linear(old.in_features, old.out_features, bias=bias, **options)
        else:
            new = target.conv(
                old.in_channels,
                old.out_channels,
                old.kernel_size,
                stride=old.stride,
                padding=old.padding,
                dilation=old.dilation,
                groups=old.groups,
                bias=bias,
                **options,
            )
    return new.to(weight.dtype).train(old.training)
