"""Kinds of networks that commands treat in their own way, each in a module of its name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from mulfree.cli.kinds.kind import Kind

KINDS = ("depth_dynamic", "dynamic_resolution", "early_exit", "plain")
"""Names of the kinds; `plain` accepts every network and is last."""


def get_kind(name: str) -> Kind:
    """Return the kind of a name, whose module is imported on the first call."""
    kind: Kind = importlib.import_module(f"{__name__}.{name}").KIND
    return kind


def find_kind(model: nn.Module) -> Kind:
    """Return the first kind that accepts a network."""
    return next(kind for kind in map(get_kind, KINDS) if isinstance(model, kind.network))
