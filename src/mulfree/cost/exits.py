"""Cost of a network with exits: up to every exit."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import nn

from mulfree.models.claims import blueprint
from mulfree.models.early_exit import FINAL, AllExits, EarlyExitNetwork
from mulfree.models.registry import config_of


def networks_to_exits(model: EarlyExitNetwork) -> dict[str, nn.Module]:
    """Return the networks that an image runs through which leaves at an exit, for `count`.

    The exits before are part of them: an image passes their classifiers.

    Args:
        model: A network of `create_model`.

    Returns:
        Networks without values, on the meta device, by name of the exit, in order.

    Raises:
        ConfigError: The model was not built by `create_model`.
    """
    whole = blueprint(config_of(model))
    assert isinstance(whole, EarlyExitNetwork)
    found: dict[str, nn.Module] = {}
    for output in whole.outputs:
        network = copy.deepcopy(whole)
        for name in list(_after(network, output)):
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, nn.Identity())
        found[output] = AllExits(network, output)
    return found


def _after(network: EarlyExitNetwork, last: str) -> Iterator[str]:
    """Names of the modules that only run after an output."""
    passed = False
    for blocks, output in network.segments():
        if passed:
            yield from (f"network.{name}" for name in blocks)
        if passed and output != FINAL:
            yield f"exits.{output}"
        passed |= output == last
    if last != FINAL:
        yield from (f"network.{name}" for name in network.network.after_stages())
