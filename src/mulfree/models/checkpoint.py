"""Weights in mulfree's own files.

A safetensors file of mulfree holds the tensors of a model and, as metadata, its model config and a
digest of both. Reading a file runs no code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import mulfree
from mulfree.digest import DIGEST, Entry, digest_of
from mulfree.errors import ArtifactError, ConfigError, printable, quoted
from mulfree.files import check_regular, write_atomically
from mulfree.models.claims import blueprint, broken, check_tensors, config_from, restored
from mulfree.models.registry import ModelConfig, config_of
from mulfree.models.wrappers import unwrapped

_FORMAT = "mulfree.model/1"
_KEYS = {"format", "mulfree_version", "model", DIGEST}
_PATH = "load_model: `path`"
_MAX_SHOWN = 60
# Names of the tensor types in safetensors.
_CODES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights and the model config of a model to one safetensors file, atomically.

    Args:
        model: A model of `create_model`, also inside the wrappers of `torch.compile`, parallel
            training and weight averaging.
        path: The file, replaced if it exists.

    Raises:
        ConfigError: The model was not built by `create_model`, was changed since, or has tensors
            that share memory or are of several floating-point types.
        OSError: The file cannot be written.
    """
    network = unwrapped(model)
    config = config_of(network)
    expected = blueprint(config)
    if _structure(network) != _structure(expected):
        raise ConfigError(
            f"save_weights: `model` must be as create_model({config.name!r}) built it, got one "
            "whose layers were changed since; save its state_dict() instead"
        )
    state = network.state_dict()
    try:
        check_tensors("save_weights: `model`", type(network).__name__, expected.state_dict(), state)
    except ArtifactError as error:
        raise ConfigError(str(error)) from error
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    content = {key: value for key, value in asdict(config).items() if value is not None}
    metadata = {
        "format": _FORMAT,
        "mulfree_version": mulfree.__version__,
        "model": json.dumps(content),
    }
    metadata[DIGEST] = _digest(metadata, tensors)
    write_atomically(Path(path), _ordered(save(tensors, metadata)))


def load_model(path: str | os.PathLike[str]) -> nn.Module:
    """Load the model of a file of `save_weights`, on the CPU and in evaluation mode.

    The file is not trusted: its content is checked before memory is allocated.

    Raises:
        ArtifactError: The file is missing, damaged, or inconsistent.
    """
    try:
        check_regular(Path(path))
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            config = _read_config(path, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise broken(_PATH, path, f"be a readable safetensors file ({reason})") from error
    model = restored(_PATH, path, config, tensors)
    # Files of earlier versions have no digest.
    if DIGEST in metadata and metadata[DIGEST] != _digest(metadata, tensors):
        raise broken(_PATH, path, f"be undamaged (its content has another {DIGEST})")
    return model


def _ordered(content: bytes) -> bytes:
    """Sort the metadata of a file by key: safetensors writes them in random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[end:]])


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    entries = (
        # The bytes of the elements.
        Entry(key, _CODES[t.dtype], t.shape, t.reshape(-1).view(torch.uint8).numpy().data)
        for key, t in tensors.items()
    )
    return digest_of(metadata, entries)


def _read_config(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> ModelConfig:
    """Model config in the metadata of a safetensors file; values are checked later."""
    if metadata.get("format") != _FORMAT:
        found = printable(str(metadata.get("format")), _MAX_SHOWN)
        raise broken(_PATH, path, f"be a file of save_weights ({_FORMAT}, not {found})")
    for key in sorted(metadata.keys() - _KEYS):
        # A damaged key of the digest would skip its check.
        raise broken(
            _PATH, path, f"hold no metadata but {', '.join(sorted(_KEYS))} ({quoted(key)})"
        )
    try:
        return config_from(json.loads(metadata["model"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise broken(_PATH, path, f"hold a valid model config ({type(error).__name__})") from error


def _structure(model: nn.Module) -> tuple[dict[str, type], dict[str, torch.Size]]:
    """Class of every module and shape of every tensor."""
    modules = {name: type(module) for name, module in model.named_modules()}
    return modules, {name: tensor.shape for name, tensor in model.state_dict().items()}
