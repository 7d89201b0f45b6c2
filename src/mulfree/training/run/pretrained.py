"""Pretrained weights of a network that is trained further, on the same or on other classes."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn

from mulfree import models, operators
from mulfree.errors import ConfigError, quoted
from mulfree.models.switchable_norm import single_names
from mulfree.training.run.checkpoint import WEIGHTS, file_of, load_model
from mulfree.training.stages import head_of, reset_head

_WHAT = "train: `model.pretrained`"
_OWN = (".safetensors", ".ckpt")
# Option and submodule of the network inside another.
_INSIDE = "network"


def load_pretrained(model: nn.Module, path: str, exclude: Sequence[str] = ()) -> None:
    """Load the weights of a file into a network.

    The head, see `mulfree.training.stages.head_of`, is loaded only if it has the same classes, and
    initialised by `mulfree.training.stages.reset_head` otherwise. A network for grey images gets
    the sum over the input channels of a first convolution for colour images: the same outputs as
    for the image repeated in each channel.

    A model around another (of several depths, exits or resolutions) also loads the network inside
    alone: each of several batch norms in the place of one starts from that one, and everything else
    stays as it is, such as exits.

    Args:
        model: A network of `create_model`.
        path: A file of mulfree by its suffix (.safetensors, .ckpt), a run's directory, or else
            published weights.
        exclude: Layers, or modules with layers, that stay as they are: names or glob patterns.

    Raises:
        ConfigError: The file has another network or other operators, or a pattern matches nothing.
        ArtifactError: The file is missing or damaged.
    """
    config = models.config_of(model)
    inside = config.arguments.get(_INSIDE)
    loaded = _read(path, config.name, inside)
    excluded = _excluded(model, exclude)
    if models.config_of(loaded).name == config.name:
        _load(model, loaded, {name: name for name in model.state_dict()}, excluded, path)
        return
    prefix = f"{_INSIDE}."
    within = {name.removeprefix(prefix) for name in excluded if name.startswith(prefix)}
    network = model.get_submodule(_INSIDE)
    _load(network, loaded, single_names(network), within, path)


def _load(
    model: nn.Module, loaded: nn.Module, names: dict[str, str], excluded: set[str], path: str
) -> None:
    """Copy the tensors of a network that may have another head.

    Args:
        model: The network to copy to.
        loaded: The network to copy.
        names: Of each tensor of `model` the name in `loaded`.
        excluded: Tensors of `model` that stay as they are.
        path: The file, for errors.
    """
    own, given = model.state_dict(), loaded.state_dict()
    head, other = head_of(model), head_of(loaded)
    shapes = {names[name]: own[name].shape for name in head}
    new_head = shapes != {name: given[name].shape for name in other}
    if new_head:
        excluded = excluded | head
        given = {name: tensor for name, tensor in given.items() if name not in other}
    _check_operators(model, loaded, excluded, path)
    for name, tensor in own.items():
        if name in excluded:
            continue
        if names[name] not in given:
            raise _other(path, f"have a tensor {names[name]!r}", "none")
        weight = given[names[name]]
        if weight.shape != tensor.shape and name == _grey_stem(model):
            weight = weight.sum(1, keepdim=True)
        if weight.shape != tensor.shape:
            required = f"have the shape {list(tensor.shape)} for {names[name]!r}"
            raise _other(path, required, str(list(weight.shape)))
        own[name] = weight
    for name in sorted(given.keys() - set(names.values())):
        raise _other(path, "have no tensor but the network's", quoted(name))
    model.load_state_dict(own)
    if new_head:
        reset_head(model)


def _read(path: str, name: str, inside: str | None) -> nn.Module:
    file = file_of(path, WEIGHTS)
    own = file.is_dir() or file.suffix in _OWN
    loaded = load_model(path) if own else models.load_published(path, inside or name)
    if (found := models.config_of(loaded).name) not in (name, inside):
        also = f", or of {inside} inside it" if inside is not None else ""
        raise ConfigError(
            f"{_WHAT} must be of the network {name} of model.name{also}, got {found} in {path}"
        )
    return loaded


def _excluded(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Names of the tensors in modules that match a pattern."""
    found: set[str] = set()
    for pattern in patterns:
        names = fnmatch.filter((name for name, _ in model.named_modules() if name), pattern)
        if not names:
            raise ConfigError(
                "train: `model.pretrained_exclude` must name layers of the network, "
                f"got {quoted(pattern)}"
            )
        within = tuple(f"{name}." for name in names)
        found |= {name for name in model.state_dict() if name.startswith(within)}
    return found


def _check_operators(model: nn.Module, loaded: nn.Module, excluded: set[str], path: str) -> None:
    """Refuse layers of another operator, whose weights have the same names and shapes."""
    others = dict(loaded.named_modules())
    for name, layer in model.named_modules():
        own = operators.operator_of(layer)
        other = operators.operator_of(others[name]) if name in others else None
        if own is None or other is None or f"{name}.weight" in excluded:
            continue
        if own != other:
            raise ConfigError(
                f"{_WHAT} must have the operator {own.name} in layer {name} "
                f"(or model.pretrained_exclude must name it), got {other.name} in {path}"
            )


def _grey_stem(model: nn.Module) -> str | None:
    """Name of the first layer's weight if that is a convolution of grey images."""
    name, layer = next((n, m) for n, m in model.named_modules() if operators.operator_of(m))
    grey = isinstance(layer, nn.Conv2d) and layer.in_channels == 1
    return f"{name}.weight" if grey else None


def _other(path: str, required: str, got: str) -> ConfigError:
    return ConfigError(f"{_WHAT} must {required}, got {got} in {path}")
