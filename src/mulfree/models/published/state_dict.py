"""Tensors and recorded operators of a state dict or of a file that holds one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from mulfree import operators
from mulfree.errors import ArtifactError, ConfigError, quoted
from mulfree.models.claims import broken, is_plain, read_pickle
from mulfree.models.registry import OPERATOR_KEY

WHAT = "load_published: `path_or_state_dict`"
_LEAVES = {"adder": "weight", "b": "bias"}
# Keys of the weights beside other content, and prefixes of wrappers.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_WRAPPER_BUFFER = "n_averaged"
# Nesting of containers or prefixes.
_MAX_DEPTH = 8


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """Content of a state dict.

    Attributes:
        source: Path, or "a state dict", for messages.
        tensors: Tensors by name, without prefixes of wrappers.
        recorded: Operator of each layer whose state dict records it.
    """

    source: str
    tensors: dict[str, Tensor]
    recorded: dict[str, str]

    @classmethod
    def read(cls, path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any]) -> Self:
        """Read a file of `torch.save`, or its content.

        Raises:
            ConfigError: Neither a path nor a state dict.
            ArtifactError: The file is missing, or holds anything but a state dict.
        """
        content: object = path_or_state_dict
        if isinstance(path_or_state_dict, Mapping):
            source = "a state dict"
        else:
            source = _path(path_or_state_dict)
            content = _read(source)
        tensors, recorded = _tensors(source, content)
        return cls(source=source, tensors=tensors, recorded=recorded)

    def renamed(self, layers: Mapping[str, str]) -> Self:
        """State dict with layers renamed; those that `layers` lacks keep their names.

        Raises:
            ArtifactError: Two tensors would have one name.
        """

        def new(name: str) -> str:
            layer, dot, leaf = name.rpartition(".")
            return layers.get(layer, layer) + dot + leaf

        tensors = {new(name): tensor for name, tensor in self.tensors.items()}
        if len(tensors) != len(self.tensors):
            raise self.refused("hold every tensor once, not under the names of two layouts")
        return replace(
            self,
            tensors=tensors,
            recorded={layers.get(layer, layer): own for layer, own in self.recorded.items()},
        )

    def refused(self, requirement: str) -> ArtifactError:
        """Error of a state dict that does not meet a requirement."""
        return broken(WHAT, self.source, requirement)


def _path(value: object) -> str:
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise ConfigError(f"{WHAT} must be a path or a state dict, got a {type(value).__name__}")
    return str(os.fspath(value))


def _read(path: str) -> object:
    try:
        return read_pickle(path)
    except OSError as error:
        raise broken(WHAT, path, f"be a readable file ({error.strerror or error})") from error
    except ValueError as error:
        raise broken(
            WHAT,
            path,
            "be an undamaged file of torch.save(model.state_dict()), for only tensors are read, "
            f"never whole models ({error})",
        ) from error


def _tensors(source: str, content: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors without prefixes, and the recorded operators of layers."""
    content = _state_dict(content)
    if not isinstance(content, Mapping):
        raise broken(WHAT, source, "be a state dict of tensors")
    metadata = getattr(content, "_metadata", None)
    # No methods: a pickled dictionary can have attributes in their place.
    given: dict[str, Tensor] = {}
    for key in content:
        if not isinstance(key, str) or not is_plain(content[key]):
            raise broken(WHAT, source, f"be a state dict of tensors ({quoted(key)} is none)")
        given[key] = content[key]
    prefix = _prefix(given)
    tensors, recorded = {}, {}
    for key, tensor in given.items():
        if not key.startswith(prefix):
            continue
        layer, dot, leaf = key.removeprefix(prefix).rpartition(".")
        tensors[layer + dot + _LEAVES.get(leaf, leaf)] = tensor
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
