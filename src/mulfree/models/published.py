"""State dicts of residual networks that other code wrote, or mulfree without a recipe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mulfree import operators
from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.models.claims import blueprint, broken, claimed, is_plain, read_pickle, restored
from mulfree.models.registry import OPERATOR_KEY, ModelConfig, list_models, model_options

_WHAT = "load_published: `path_or_state_dict`"
_OUR_NAMES = {"adder": "weight", "b": "bias"}
# Where files keep the weights among other things, and what wrappers put before every name.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_WRAPPER_BUFFER = "n_averaged"
# Of either, one in the other.
_MAX_DEPTH = 8


def load_published(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    name: str,
    *,
    operator: str | None = None,
) -> nn.Module:
    """A residual network with weights published elsewhere, in evaluation mode.

    Reads state dicts of the AdderNet authors' code, where the weight of an adder layer is called
    `adder` and its bias `b`, those of torchvision, whose classifier is a linear layer, and those of
    models of `create_model`; also inside a dictionary (`state_dict`, `model_state_dict`, `model`)
    and with the prefixes that `DataParallel`, `torch.compile` and the like put before the names.
    Classes, channels, width, the normalisation of the logits and which layers are adders are read
    off the tensors and the metadata of a state dict.

    Args:
        path_or_state_dict: File of `torch.save`, of which only tensors are read, or its content.
        name: The network: one of `list_models("resnet*")`.
        operator: Operator of all layers but the first and the last, for a state dict that does not
            record it: an adder layer and a convolution have weights of the same name and shape.

    Raises:
        ConfigError: Neither path nor state dict, not the name of a residual network or of an
            operator, or not the operator that the state dict records.
        ArtifactError: No such file, one with more in it than tensors, not of that network, or of
            layers whose operator it does not record.

    References:
        resnet20.py, resnet50.py and adder.py of github.com/huawei-noah/AdderNet.
    """
    networks = list_models("resnet*")
    if name not in networks:
        raise ConfigError(choices_message("load_published", "name", name, networks))
    if operator is not None and operator not in operators.OPERATORS:
        choices = operators.OPERATORS
        raise ConfigError(choices_message("load_published", "operator", operator, choices))
    if isinstance(path_or_state_dict, Mapping):
        source = "a state dict"
        tensors, recorded = _named_as_ours(source, path_or_state_dict)
    else:
        source = _path(path_or_state_dict)
        tensors, recorded = _named_as_ours(source, _read(source))
    config = _config(source, tensors, recorded, name, operator)
    expected = claimed(_WHAT, source, config)
    # The authors' layer has an optional bias that their networks do not use.
    biases = {
        layer: tensors.pop(key)
        for layer, own in recorded.items()
        if own == "adder2d" and (key := f"{layer}.bias") in tensors and key not in expected
    }
    for key, tensor in expected.items():
        if key.endswith("num_batches_tracked"):
            # Only there since torch 0.4.1, and only used for averages that are not exponential.
            tensors.setdefault(key, torch.zeros_like(tensor, device="cpu"))
    model = restored(_WHAT, source, config, tensors, torch.float32)
    for layer, bias in biases.items():
        model.get_submodule(layer).bias = nn.Parameter(bias.detach().clone())
    return model


def _path(value: object) -> str:
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise ConfigError(f"{_WHAT} must be a path or a state dict, got a {type(value).__name__}")
    return str(os.fspath(value))


def _read(path: str) -> object:
    try:
        return read_pickle(path)
    except OSError as error:
        raise broken(_WHAT, path, f"be a readable file ({error.strerror or error})") from error
    except ValueError as error:
        raise broken(
            _WHAT,
            path,
            "be an undamaged file of torch.save(model.state_dict()), for only tensors are read, "
            f"never whole models ({error})",
        ) from error


def _named_as_ours(source: str, content: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under mulfree's names, and the operators of the layers that have one on record."""
    content = _state_dict(content)
    if not isinstance(content, Mapping):
        raise broken(_WHAT, source, "be a state dict of tensors")
    metadata = getattr(content, "_metadata", None)
    # Not by methods: attributes of a dictionary in a pickle can take their places.
    given: dict[str, Tensor] = {}
    for key in content:
        if not isinstance(key, str) or not is_plain(content[key]):
            raise broken(_WHAT, source, f"be a state dict of tensors ({quoted(key)} is none)")
        given[key] = content[key]
    prefix = _prefix(given)
    tensors, recorded = {}, {}
    for key, tensor in given.items():
        if not key.startswith(prefix):
            continue
        layer, dot, leaf = key.removeprefix(prefix).rpartition(".")
        tensors[layer + dot + _OUR_NAMES.get(leaf, leaf)] = tensor
        operator = "adder2d" if leaf == "adder" else _recorded(metadata, prefix + layer)
        if operator is not None and leaf in ("adder", "weight"):
            recorded[layer] = operator
    return tensors, recorded


def _state_dict(content: object) -> object:
    """The innermost of the containers that weights are in."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, Mapping):
            break
        inner = (content[key] for key in _CONTAINERS if key in content)
        found = next((value for value in inner if isinstance(value, Mapping)), None)
        if found is None:
            break
        content = found
    return content


def _prefix(names: Iterable[str]) -> str:
    """All that wrappers put before the names."""
    prefix = ""
    for _ in range(_MAX_DEPTH):
        own = [name for name in names if name != prefix + _WRAPPER_BUFFER]
        longer = (prefix + part for part in _PREFIXES)
        found = next((p for p in longer if own and all(n.startswith(p) for n in own)), None)
        if found is None:
            break
        names, prefix = own, found
    return prefix


def _recorded(metadata: object, module: str) -> str | None:
    """The operator that a state dict has on record for a module, if any."""
    entry = metadata[module] if isinstance(metadata, dict) and module in metadata else None
    operator = entry[OPERATOR_KEY] if isinstance(entry, dict) and OPERATOR_KEY in entry else None
    return operator if operator in operators.OPERATORS else None


def _config(
    source: str,
    tensors: dict[str, Tensor],
    recorded: Mapping[str, str],
    name: str,
    operator: str | None,
) -> ModelConfig:
    """The recipe of the network that the tensors are of; makes its classifier one by one."""
    full = blueprint(ModelConfig(name=name))
    classifier = tensors.get("fc.weight")
    linear = False
    if classifier is not None and classifier.ndim == 2:
        linear = True
        tensors["fc.weight"] = classifier[:, :, None, None]
    layers = dict(full.named_modules())
    for key in ("conv1.weight", "fc.weight"):
        if key not in tensors or tensors[key].ndim != 4:
            strange = (key for key in tensors if key.rpartition(".")[0] not in layers)
            first = next((f"; {quoted(key)} does not fit" for key in strange), "")
            weights = f"be the weights of a {name} (with a 4-D {key!r}{first})"
            raise broken(_WHAT, source, weights)
    stem, classifier = tensors["conv1.weight"], tensors["fc.weight"]
    arguments: dict[str, Any] = {
        "num_classes": classifier.shape[0],
        "in_channels": stem.shape[1],
        "width": stem.shape[0] / full.get_parameter("conv1.weight").shape[0],
        "norm_logits": "bn2.weight" in tensors,
    }
    if "small_input" in model_options(name):
        arguments["small_input"] = stem.shape[2] == 3
    if recorded:
        found = next((kind for kind in recorded.values() if kind != "conv2d"), "conv2d")
        if operator not in (None, found):
            raise ConfigError(
                f"load_published: `operator` must be {found} as {source} records it, got {operator}"
            )
        operator = found
        if found != "conv2d":
            arguments["keep"] = [
                layer
                for layer in layers
                if f"{layer}.weight" in tensors
                and tensors[f"{layer}.weight"].ndim == 4
                and recorded.get(layer) != found
            ]
    elif operator is None and not linear:
        raise ConfigError(
            'load_published: `operator` must be given as operator="adder2d" or '
            'operator="conv2d" where the weights do not record that of their layers, got None '
            f"for {source}"
        )
    return ModelConfig(name=name, arguments={"operator": operator or "conv2d"} | arguments)
