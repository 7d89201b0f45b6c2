"""Model configs and tensors of untrusted files, checked before memory is allocated."""

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

# Far above any model config; a hostile one does not take seconds.
_MAX_TEXT = 1000
_MAX_VALUES = 1000
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Further names in foreign state dicts, and in checkpoints that contain them.
_NAMES = rf"{TENSORS}|collections Counter|torch device|torch\._utils _rebuild_(tensor|parameter)"


def read_pickle(path: str | os.PathLike[str]) -> object:
    """Read tensors and plain values from a file of `torch.save`; runs no code.

    Raises:
        OSError: The file is missing, unreadable, or not a regular file.
        ValueError: The file is damaged or holds anything else; the reason in one line.
    """
    with open_regular(Path(path)) as file:
        content: object = load(file, _NAMES)
    return content


def config_from(content: Any) -> ModelConfig:
    """Model config from the content of a file; `create_model` checks its arguments.

    Raises:
        KeyError: A part of it is missing.
        TypeError: It is not a table of a few plain values.
        ConfigError: The specification of the images is not valid.
    """
    if not isinstance(content, dict):
        raise TypeError("it is not a table")
    name, arguments, images = content["name"], content["arguments"], content.get("images")
    if not isinstance(arguments, dict) or "name" in arguments:
        raise TypeError("its arguments are not a table")
    _check_plain([name, *arguments, *arguments.values()])
    return ModelConfig(
        name=name,
        arguments=dict(arguments),
        images=None if images is None else ImageSpec.from_dict(images),
    )


def _check_plain(values: list[Any]) -> None:
    """Refuse anything but a few numbers and short texts, alone or in lists and tables."""
    count = 0
    while values:
        value = values.pop()
        count += 1
        if isinstance(value, (list, tuple)):
            if len(value) > _MAX_VALUES:
                raise TypeError(f"it has more than {_MAX_VALUES} values")
            values.extend(value)
        elif isinstance(value, dict):
            values.extend([*value, *value.values()])
        elif not isinstance(value, (bool, int, float, str, NoneType)):
            raise TypeError(f"{quoted(value)} in it is not a plain value")
        elif isinstance(value, str) and len(value) > _MAX_TEXT:
            raise TypeError(f"{quoted(value)} in it is longer than {_MAX_TEXT} characters")
        if count > _MAX_VALUES:
            raise TypeError(f"it has more than {_MAX_VALUES} values")


def build(config: ModelConfig) -> nn.Module:
    """Build the network of a model config; random states are left alone."""
    with torch.random.fork_rng(devices=[]):
        model = create_model(config.name, **config.arguments)
    if config.images is not None:
        set_images(model, config.images)
    return model


def blueprint(config: ModelConfig) -> nn.Module:
    """Build the network of a model config on the meta device."""
    with torch.device("meta"):
        return build(config)


def restored(
    what: str,
    source: str | os.PathLike[str],
    config: ModelConfig,
    tensors: Mapping[str, object],
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Build the network of a model config with the tensors of a file, on the CPU, in eval mode.

    Args:
        what: Name of the file in errors, as in "load_model: `path`".
        source: The file.
        config: Model config.
        tensors: State dict of the network.
        dtype: Floating-point type of the network; None for the type of the tensors, which must
            then be equal.

    Raises:
        ArtifactError: No such network can be built, or the tensors belong to another one.
    """
    expected = claimed(what, source, config)
    own = check_tensors(what, source, expected, tensors, mixed=dtype is not None)
    model = build(config).to(dtype or own)
    model.load_state_dict(tensors)
    return model.eval()


def claimed(what: str, source: str | os.PathLike[str], config: ModelConfig) -> dict[str, Tensor]:
    """State dict, on the meta device, of the network of a model config in a file.

    Raises:
        ArtifactError: No such network can be built.
    """
    try:
        return blueprint(config).state_dict()
    # Values from a file may be of any type.
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
    """Compare tensors with the state dict of a network, before memory is allocated.

    Args:
        what: Name of the file in errors, as in "load_model: `path`".
        source: The file.
        expected: State dict of the network, possibly on the meta device.
        tensors: State dict of the file.
        mixed: Whether several floating-point types are allowed.

    Returns:
        The floating-point type of the tensors, or one of them.

    Raises:
        ArtifactError: Names, shapes or types differ, or elements are missing.
    """
    for key in tensors:
        if key not in expected:
            surplus = f"({quoted(key)} is not)"
            raise broken(what, source, f"hold no tensors but its network's {surplus}")
    dtypes: set[torch.dtype] = set()
    size, storages = 0, {}
    for key, own in expected.items():
        if key not in tensors:
            raise broken(what, source, f"hold all tensors of its network ({key!r} is missing)")
        tensor = tensors[key]
        if not is_plain(tensor):
            raise broken(what, source, f"hold plain tensors alone ({key!r} is none)")
        if tensor.shape != own.shape:
            sizes = f"{list(own.shape)} for {key!r}, not {list(tensor.shape)}"
            raise broken(what, source, f"have its network's shapes ({sizes})")
        if not own.is_floating_point() and tensor.dtype != own.dtype:
            types = f"{own.dtype} for {key!r}, not {tensor.dtype}"
            raise broken(what, source, f"have its network's types ({types})")
        if own.is_floating_point():
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
    """Return whether a value is a dense tensor with elements in memory."""
    if not isinstance(value, Tensor) or value.is_nested or value.is_quantized:
        return False
    return value.layout == torch.strided and value.device.type != "meta"


def broken(what: str, source: str | os.PathLike[str], requirement: str) -> ArtifactError:
    """Error of the file `what` that does not meet a requirement."""
    return ArtifactError(f"{what} must {requirement}, got {os.fspath(source)}")
