"""Vocabulary of integer networks: one folder for each kind of node, loaded on first use.

A new kind of node is a folder with a `NODE` in its `__init__` and a line in `NODES` below. The
modules of the folder are its facets: `reference` is the definition in numpy; the others are
optional, and a consumer names the kinds that lack the facet.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from mulfree.errors import ArtifactError, choices_message
from mulfree.nodes.node import Node as Node
from mulfree.nodes.node import Value as Value

NODES: tuple[str, ...] = (
    "adder2d",
    "conv2d",
    "max_pool",
    "mean",
    "add",
    "gate",
    "lut",
    "pad",
    "repeat",
    "concat",
    "linear",
)
"""The kinds of node by their names in files."""


def get_node(op: str) -> type[Node]:
    """Return the class of a kind of node.

    Raises:
        ArtifactError: There is no such kind.
    """
    if op not in NODES:
        raise ArtifactError(choices_message("get_node", "op", op, NODES))
    node: type[Node] = import_module(f"{__name__}.{op}").NODE
    return node


def facet(op: str, name: str) -> ModuleType | None:
    """Return the module `name` of a kind of node, or None if its folder has none."""
    module = f"{__name__}.{op}.{name}"
    return None if find_spec(module) is None else import_module(module)
