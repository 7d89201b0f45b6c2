"""State dicts of residual networks from other code, or from mulfree without a model config."""

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
# Keys of the weights beside other content, and prefixes of wrappers.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_WRAPPER_BUFFER = "n_averaged"
# Nesting of containers or prefixes.
_MAX_DEPTH = 8


def load_published(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    name: str,
    *,
    operator: str | None = None,
) -> nn.Module:
    """Load a residual network with weights published elsewhere, in evaluation mode.

    Supported are state dicts of the AdderNet authors' code (weight `adder` and bias `b` in adder
    layers), of torchvision (linear classifier), and of models of `create_model`; also inside a
    dictionary (`state_dict`, `model_state_dict`, `model`) and with the prefixes of `DataParallel`,
    `torch.compile` and similar wrappers. Classes, channels, width, batch norm of the logits and the
    operator of each layer are inferred from the tensors and the metadata of the state dict.

    Args:
        path_or_state_dict: File of `torch.save`, read for tensors only, or its content.
        name: The network: one of `list_models("resnet*")`.
        operator: Operator of all layers except the first and the last, for a state dict without a
            record of it: weights of adder layers and convolutions have equal names and shapes.

    Raises:
        ConfigError: Neither path nor state dict, unknown network or operator, or an operator that
            differs from the recorded one.
        ArtifactError: The file is missing, holds more than tensors, belongs to another network, or
            lacks the operator of its layers.

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
    # Optional in the authors' layer, unused in their networks.
    biases = {
        layer: tensors.pop(key)
        for layer, own in recorded.items()
        if own == "adder2d" and (key := f"{layer}.bias") in tensors and key not in expected
    }
    for key, tensor in expected.items():
        if key.endswith("num_batches_tracked"):
            # Since torch 0.4.1; used for cumulative averages only.
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
    """Tensors under mulfree's names, and the recorded operators of layers."""
    content = _state_dict(content)
    if not isinstance(content, Mapping):
        raise broken(_WHAT, source, "be a state dict of tensors")
    metadata = getattr(content, "_metadata", None)
    # No methods: a pickled dictionary can have attributes in their place.
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
    """Innermost container of the weights."""
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
    """Prefix of all names, as added by wrappers."""
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
    """Operator of a module in the metadata of a state dict, if any."""
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
    """Infer the model config; reshapes a linear classifier to a 1x1 convolution."""
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
