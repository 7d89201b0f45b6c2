"""Weights in files: mulfree's own as safetensors, and state dicts that others published.

A safetensors file of mulfree holds the tensors of a model and, as metadata, the recipe that
`create_model` builds the same network from. No code is ever run from a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import mulfree
from mulfree.errors import ArtifactError, ConfigError, choices_message
from mulfree.files import write_atomically
from mulfree.models.registry import (
    ModelConfig,
    config_of,
    create_model,
    list_models,
    model_options,
)

_FORMAT = "mulfree.model/1"
_OUR_NAMES = {"adder": "weight", "b": "bias"}
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights of a model and its recipe to one safetensors file.

    The file appears under its name only when it is complete.

    Args:
        model: A model of `create_model`, also one that `torch.compile` wraps.
        path: The file, replaced if it exists.

    Raises:
        ConfigError: The model was not built by `create_model` or was changed since.
        OSError: The file cannot be written.
    """
    config = config_of(model)
    network = getattr(model, "_orig_mod", model)
    if _structure(network) != _structure(_blueprint(config)):
        raise ConfigError(
            f"save_weights: `model` must be as create_model({config.name!r}) built it, got one "
            "whose layers were changed since; save its state_dict() instead"
        )
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    recipe = json.dumps({"name": config.name, "arguments": config.arguments})
    metadata = {"format": _FORMAT, "mulfree_version": mulfree.__version__, "model": recipe}
    write_atomically(Path(path), save(tensors, metadata))


def load_model(path: str | os.PathLike[str]) -> nn.Module:
    """The model of a file of `save_weights`, on the CPU and in evaluation mode.

    The file is not trusted: what it claims is checked before memory is given to it.

    Raises:
        ArtifactError: No such file, or one that is damaged or not what it claims.
    """
    try:
        with safe_open(path, framework="pt") as file:
            config = _read_recipe(path, file.metadata())
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            blueprint = _claimed("load_model", path, config)
            _check_shapes("load_model", path, blueprint, shapes)
            tensors = {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise _broken("load_model", path, f"be a readable safetensors file ({error})") from error
    dtypes = {tensors[name].dtype for name in blueprint if blueprint[name].is_floating_point()}
    if len(dtypes) != 1 or not dtypes <= set(_DTYPES):
        listed = ", ".join(sorted(map(str, dtypes)))
        raise _broken("load_model", path, f"be of one floating-point type, not of {listed}")
    model = _build(config).to(dtypes.pop())
    model.load_state_dict(tensors)
    return model.eval()


def load_published(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any], name: str
) -> nn.Module:
    """A residual network with weights published elsewhere, in evaluation mode.

    Reads state dicts of the AdderNet authors' code, where the weight of an adder layer is called
    `adder` and its bias `b`, with or without the prefix `module.` of `DataParallel`, and those of
    torchvision, whose classifier is a linear layer. Classes, channels, width, the normalisation of
    the logits and which layers are adders are read off the tensors.

    Args:
        path_or_state_dict: File of `torch.save`, of which only tensors are read, or its content.
        name: The network: one of `list_models("resnet*")`.

    Raises:
        ConfigError: Not the name of a residual network.
        ArtifactError: No such file, one with more in it than tensors, or not of that network.

    References:
        resnet20.py, resnet50.py and adder.py of github.com/huawei-noah/AdderNet.
    """
    networks = list_models("resnet*")
    if name not in networks:
        raise ConfigError(choices_message("load_published", "name", name, networks))
    if isinstance(path_or_state_dict, Mapping):
        source = "a state dict"
        tensors, adders = _published_tensors(source, path_or_state_dict)
    else:
        source = os.fspath(path_or_state_dict)
        tensors, adders = _published_tensors(source, _read_pickle(source))
    config = _published_config(source, tensors, adders, name)
    blueprint = _claimed("load_published", source, config)
    # The authors' layer has an optional bias that their networks do not use.
    biases = {layer: tensors.pop(key) for layer in adders if (key := f"{layer}.bias") in tensors}
    for key, tensor in blueprint.items():
        if key.endswith("num_batches_tracked"):
            # Only there since torch 0.4.1, and only used for averages that are not exponential.
            tensors.setdefault(key, torch.zeros_like(tensor, device="cpu"))
    _check_shapes(
        "load_published", source, blueprint, {k: list(v.shape) for k, v in tensors.items()}
    )
    model = _build(config)
    model.load_state_dict(tensors)
    for layer, bias in biases.items():
        model.get_submodule(layer).bias = nn.Parameter(bias.detach().clone())
    return model.eval()


def _published_tensors(source: str, content: object) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under mulfree's names, and the names of the adder layers among them."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise _broken("load_published", source, "be a state dict of tensors")
    tensors, adders = {}, []
    prefixed = all(key.startswith("module.") for key in content)
    for key, tensor in content.items():
        layer, dot, leaf = (key.removeprefix("module.") if prefixed else key).rpartition(".")
        if leaf == "adder":
            adders.append(layer)
        tensors[layer + dot + _OUR_NAMES.get(leaf, leaf)] = tensor
    classifier = tensors.get("fc.weight")
    if classifier is not None and classifier.ndim == 2:
        tensors["fc.weight"] = classifier[:, :, None, None]
    return tensors, adders


def _published_config(
    source: str, tensors: Mapping[str, Tensor], adders: list[str], name: str
) -> ModelConfig:
    """The recipe of the network that the tensors are of."""
    for key in ("conv1.weight", "fc.weight"):
        if key not in tensors or tensors[key].ndim != 4:
            raise _broken(
                "load_published", source, f"be the weights of a {name} (with a 4-D {key!r})"
            )
    stem, classifier = tensors["conv1.weight"], tensors["fc.weight"]
    full = _blueprint(ModelConfig(name=name)).get_parameter("conv1.weight")
    arguments: dict[str, Any] = {
        "operator": "adder2d" if adders else "conv2d",
        "num_classes": classifier.shape[0],
        "in_channels": stem.shape[1],
        "width": stem.shape[0] / full.shape[0],
        "norm_logits": "bn2.weight" in tensors,
    }
    if "small_input" in model_options(name):
        arguments["small_input"] = stem.shape[2] == 3
    if adders:
        layers = [key.removesuffix(".weight") for key in tensors if tensors[key].ndim == 4]
        arguments["keep"] = [layer for layer in layers if layer not in adders]
    return ModelConfig(name=name, arguments=arguments)


def _read_pickle(path: str | os.PathLike[str]) -> object:
    """Content of a file of `torch.save`, if that is tensors in plain containers."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _broken("load_published", path, f"be a readable file ({error})") from error
    except Exception as error:  # Damaged pickles fail in any way.
        reason = str(error).partition("\n")[0][:200]
        raise _broken(
            "load_published",
            path,
            "be an undamaged file of torch.save(model.state_dict()), for only tensors are read, "
            f"never whole models ({type(error).__name__}: {reason})",
        ) from error


def _read_recipe(path: str | os.PathLike[str], metadata: Mapping[str, str] | None) -> ModelConfig:
    """The recipe in the metadata of a safetensors file; its values are still to be checked."""
    if not metadata or metadata.get("format") != _FORMAT:
        found = (metadata or {}).get("format")
        raise _broken("load_model", path, f"be a file of save_weights ({_FORMAT}, not {found})")
    try:
        recipe = json.loads(metadata["model"])
        name, arguments = recipe["name"], recipe["arguments"]
        if not isinstance(arguments, dict) or "name" in arguments:
            raise TypeError("its arguments are not a table")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _broken(
            "load_model", path, f"hold a valid recipe ({type(error).__name__})"
        ) from error
    return ModelConfig(name=name, arguments=arguments)


def _build(config: ModelConfig) -> nn.Module:
    """The network of a recipe, without touching the state of the random numbers."""
    with torch.random.fork_rng(devices=[]):
        return create_model(config.name, **config.arguments)


def _blueprint(config: ModelConfig) -> nn.Module:
    """The network of a recipe without memory behind its tensors."""
    with torch.device("meta"):
        return _build(config)


def _claimed(
    function: str, source: str | os.PathLike[str], config: ModelConfig
) -> dict[str, Tensor]:
    """The tensors, without memory, that a file with this recipe must have."""
    try:
        return _blueprint(config).state_dict()
    except ConfigError as error:
        raise _broken(function, source, f"be of a network that can be built ({error})") from error


def _structure(model: nn.Module) -> tuple[dict[str, type], dict[str, torch.Size]]:
    """Class of every module and shape of every tensor."""
    modules = {name: type(module) for name, module in model.named_modules()}
    return modules, {name: tensor.shape for name, tensor in model.state_dict().items()}


def _check_shapes(
    function: str,
    source: str | os.PathLike[str],
    expected: Mapping[str, Tensor],
    shapes: Mapping[str, list[int]],
) -> None:
    """Refuse tensors that are not those of the network, by name and shape."""
    for key, tensor in expected.items():
        if key not in shapes:
            raise _broken(function, source, f"hold all tensors of its network ({key!r} is missing)")
        if list(tensor.shape) != shapes[key]:
            what = (
                f"have its network's shapes ({list(tensor.shape)} for {key!r}, not {shapes[key]})"
            )
            raise _broken(function, source, what)
    for key in shapes:
        if key not in expected:
            raise _broken(function, source, f"hold no tensors but its network's ({key!r} is not)")


def _broken(function: str, source: str | os.PathLike[str], requirement: str) -> ArtifactError:
    argument = "path" if function == "load_model" else "path_or_state_dict"
    return ArtifactError(f"{function}: `{argument}` must {requirement}, got {os.fspath(source)}")
