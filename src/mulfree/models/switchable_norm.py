"""Batch norms with statistics, weight and bias of their own for each way a network is used.

Statistics differ between depths and resolutions; shared ones fit none of them.

References:
    arXiv 1812.08928 (switchable batch norm); by resolution: arXiv 2106.02898, Eq. 3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mulfree.errors import ConfigError, choices_message, quoted


class SwitchableBatchNorm2d(nn.Module):
    """A `BatchNorm2d` for each branch; one branch is active.

    Args:
        norm: The batch norm that every branch starts from.
        branches: Names of the branches; the first is active.
    """

    def __init__(self, norm: nn.BatchNorm2d, branches: Sequence[str]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({branch: copy.deepcopy(norm) for branch in branches})
        self.active = branches[0]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[N, C, H, W]` with the active branch."""
        y: Tensor = self.branches[self.active](x)
        return y


def make_switchable(network: nn.Module, branches: Callable[[str], Sequence[str]]) -> None:
    """Replace the batch norms of a network by switchable ones, in place.

    Args:
        network: The network.
        branches: Branches of the batch norm of a name; with one or none it is left as it is.

    Raises:
        ConfigError: The name of a branch is no valid name of a module.
    """
    for name, module in list(network.named_modules()):
        if not isinstance(module, nn.BatchNorm2d):
            continue
        names = list(branches(name))
        for branch in names:
            if not branch or "." in branch or hasattr(nn.ModuleDict, branch):
                raise ConfigError(
                    "make_switchable: `branches` must have names without dots that are no "
                    f"attributes of a ModuleDict, got {quoted(branch)}"
                )
        if len(names) > 1:
            network.set_submodule(name, SwitchableBatchNorm2d(module, names))


def single_names(network: nn.Module) -> dict[str, str]:
    """Return the names of a network's tensors, with those that they have with one branch alone."""
    switchable = [
        f"{path}.branches."
        for path, module in network.named_modules()
        if isinstance(module, SwitchableBatchNorm2d)
    ]
    names = {}
    for name in network.state_dict():
        prefix = next((prefix for prefix in switchable if name.startswith(prefix)), None)
        names[name] = name
        if prefix is not None:
            # Of a batch norm, the branch and the tensor follow.
            _, _, tensor = name.removeprefix(prefix).partition(".")
            names[name] = f"{prefix.removesuffix('branches.')}{tensor}"
    return names


def switch(network: nn.Module, branch: str) -> None:
    """Make a branch the active one in all batch norms that have it.

    Raises:
        ConfigError: No batch norm has it.
    """
    norms = [module for module in network.modules() if isinstance(module, SwitchableBatchNorm2d)]
    having = [norm for norm in norms if branch in norm.branches]
    if not having:
        known = sorted({name for norm in norms for name in norm.branches})
        raise ConfigError(choices_message("switch", "branch", branch, known))
    for norm in having:
        norm.active = branch
