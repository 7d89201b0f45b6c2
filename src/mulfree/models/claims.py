"""Recipes and tensors out of files that are not trusted, checked before memory is given to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from mulfree.errors import ArtifactError, ConfigError, quoted
from mulfree.files import open_regular
from mulfree.models.images import ImageSpec
from mulfree.models.pickles import TENSORS, load
from mulfree.models.registry import ModelConfig, create_model, set_images

# Far above any recipe, low enough that a hostile one does not take seconds.
_MAX_TEXT = 1000
_MAX_VALUES = 1000
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What state dicts of others, and checkpoints around them, are made of as well.
_NAMES = rf"{TENSORS}|collections Counter|torch device|torch\._utils _rebuild_(tensor|parameter)"


def read_pickle(path: str | os.PathLike[str]) -> object:
    """Content of a file of `torch.save`: tensors and plain values, no code is run.

    Raises:
        OSError: Nothing is there, it cannot be read, or it is something else than a file.
        ValueError: The file is damaged or holds anything else; the reason in one line.
    """
    with open_regular(Path(path)) as file:
        content: object = load(file, _NAMES)
    return content


def recipe_of(own: Any) -> ModelConfig:
    """The recipe in a file; whether its arguments are valid is for `create_model` to say.

    Raises:
        KeyError: A part of it is missing.
        TypeError: It is no table of a few plain values.
        ConfigError: What it says of the images is not valid.
    """
    if not isinstance(own, dict):
        raise TypeError("it is not a table")
    name, arguments, images = own["name"], own["arguments"], own.get("images")
    if not isinstance(arguments, dict) or "name" in arguments:
        raise TypeError("its arguments are not a table")
    _check_plain([name, *arguments, *arguments.values()])
    return ModelConfig(
        name=name,
        arguments=dict(arguments),
        images=None if images is None else ImageSpec.from_dict(images),
    )


def _check_plain(values: list[Any]) -> None:
    """Refuse anything but a few numbers and short texts, in lists or not."""
    count = 0
    while values:
        value = values.pop()
        count += 1
        if isinstance(value, (list, tuple)):
            if len(value) > _MAX_VALUES:
                raise TypeError(f"it has more than {_MAX_VALUES} values")
            values.extend(value)
        elif not isinstance(value, (bool, int, float, str, NoneType)):
            raise TypeError(f"{quoted(value)} in it is not a plain value")
        elif isinstance(value, str) and len(value) > _MAX_TEXT:
            raise TypeError(f"{quoted(value)} in it is longer than {_MAX_TEXT} characters")
        if count > _MAX_VALUES:
            raise TypeError(f"it has more than {_MAX_VALUES} values")


def build(config: ModelConfig) -> nn.Module:
    """The network of a recipe, without touching the state of the random numbers."""
    with torch.random.fork_rng(devices=[]):
        model = create_model(config.name, **config.arguments)
    if config.images is not None:
        set_images(model, config.images)
    return model


def blueprint(config: ModelConfig) -> nn.Module:
    """The network of a recipe without memory behind its tensors."""
    with torch.device("meta"):
        return build(config)


def restored(
    what: str,
    source: str | os.PathLike[str],
    config: ModelConfig,
    tensors: Mapping[str, object],
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The network of a recipe with the tensors of a file, on the CPU and in evaluation mode.

    Args:
        what: What an error calls the file, as in "load_model: `path`".
        source: The file.
        config: Recipe.
        tensors: State dict of the network.
        dtype: Floating-point type of the network; None for that of the tensors, which must then
            be of one.

    Raises:
        ArtifactError: No network can be built so, or the tensors are those of another one.
    """
    expected = claimed(what, source, config)
    own = check_tensors(what, source, expected, tensors, mixed=dtype is not None)
    model = build(config).to(dtype or own)
    model.load_state_dict(tensors)
    return model.eval()


def claimed(what: str, source: str | os.PathLike[str], config: ModelConfig) -> dict[str, Tensor]:
    """The state dict, without memory, of the network that a file says it is of.

    Raises:
        ArtifactError: No network can be built so.
    """
    try:
        return blueprint(config).state_dict()
    # The values of a recipe in a file may be of any type.
    except (ConfigError, TypeError, RecursionError) as error:
        raise broken(what, source, f"be of a network that can be built ({error})") from error


def check_tensors(
    what: str,
    source: str | os.PathLike[str],
    expected: Mapping[str, Tensor],
    tensors: Mapping[str, object],
    *,
    mixed: bool = False,
) -> torch.dtype:
    """Refuse tensors that are not those of a network, before memory is given to it.

    Args:
        what: What an error calls the file, as in "load_model: `path`".
        source: The file.
        expected: State dict of the network, which may be on the meta device.
        tensors: State dict of the file.
        mixed: Whether they may be of several floating-point types.

    Returns:
        The floating-point type of the tensors, or one of them.

    Raises:
        ArtifactError: They have other names, shapes or types, or their elements are not all there.
    """
    for key in tensors:
        if key not in expected:
            surplus = f"({quoted(key)} is not)"
            raise broken(what, source, f"hold no tensors but its network's {surplus}")
    dtypes: set[torch.dtype] = set()
    size, storages = 0, {}
    for key, wanted in expected.items():
        if key not in tensors:
            raise broken(what, source, f"hold all tensors of its network ({key!r} is missing)")
        tensor = tensors[key]
        if not is_plain(tensor):
            raise broken(what, source, f"hold plain tensors alone ({key!r} is none)")
        if tensor.shape != wanted.shape:
            sizes = f"{list(wanted.shape)} for {key!r}, not {list(tensor.shape)}"
            raise broken(what, source, f"have its network's shapes ({sizes})")
        if not wanted.is_floating_point() and tensor.dtype != wanted.dtype:
            types = f"{wanted.dtype} for {key!r}, not {tensor.dtype}"
            raise broken(what, source, f"have its network's types ({types})")
        if wanted.is_floating_point():
            dtypes.add(tensor.dtype)
        storage = tensor.untyped_storage()
        size += tensor.numel() * tensor.element_size()
        storages[storage.data_ptr()] = storage.nbytes()
    if not dtypes <= set(_DTYPES) or (len(dtypes) != 1 and not mixed):
        listed = ", ".join(sorted(map(str, dtypes)))
        raise broken(what, source, f"be of one floating-point type, not of {listed}")
    if size > sum(storages.values()):
        raise broken(what, source, "hold every element of its tensors, not one for many")
    return dtypes.pop()


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Return whether something is a tensor of elements in memory, in no packed format."""
    if not isinstance(value, Tensor) or value.is_nested or value.is_quantized:
        return False
    return value.layout == torch.strided and value.device.type != "meta"


def broken(what: str, source: str | os.PathLike[str], requirement: str) -> ArtifactError:
    """The error of a file, called `what`, that does not fulfil a requirement."""
    return ArtifactError(f"{what} must {requirement}, got {os.fspath(source)}")
