"""Adapters: linear 1x1 layers between units of different channels, and their merge.

References:
    arXiv 2012.04915 (grafting).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mulfree.models.staged import StagedNetwork
from mulfree.models.units import Unit

# Functions that treat every channel alike and linearly, so a linear map of the channels may as well
# follow them.
_CHANNEL_WISE = (functional.adaptive_avg_pool2d, functional.avg_pool2d, functional.dropout)


def make_adapter(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 1x1 convolution without bias, normal weights of variance `2 / out_channels`.

    A bias could not be merged: the zeros around a map pass an adapter that has none unchanged, so
    padding before or after the adapter is the same.
    """
    adapter = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    nn.init.kaiming_normal_(adapter.weight, mode="fan_out", nonlinearity="relu")
    return adapter


def absorbing_layers(unit: Unit, network: StagedNetwork, x: Tensor) -> list[str] | None:
    """Return the names of the layers that absorb a linear map of the unit's input channels.

    They are the convolutions that read the input, directly or averaged over positions.

    Args:
        unit: A unit.
        network: Its network; on the device "meta" nothing is computed.
        x: Input of the unit.

    Returns:
        None if anything else reads the input: a layer of another operator, a depthwise
        convolution, a shortcut, or an activation.
    """
    with _Readers(x) as readers:
        unit.run(network, x)
    names = {
        id(module.weight): name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    }
    found = [names.get(weight) for weight in readers.weights]
    return None if None in found else [name for name in found if name is not None]


class _Readers(TorchFunctionMode):
    """Record of the convolutions that read a tensor, by the identity of their weights.

    Attributes:
        weights: Identity of each weight, or None for any other reader.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        # Tensors are kept, so that no other gets the identity of one.
        self._read = [x]
        self.weights: list[int | None] = []

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = (*args, *(kwargs or {}).values())
        if isinstance(result, Tensor) and any(one is x for one in given for x in self._read):
            if function in _CHANNEL_WISE:
                self._read.append(result)
            else:
                is_conv = function is torch.conv2d
                self.weights.append(id(given[1]) if is_conv else None)
        return result


def merged_weight(weight: Tensor, adapters: Sequence[Tensor]) -> Tensor:
    r"""Weight of a convolution that includes the adapters before it.

    .. math:: W'_{oj} = \sum_i W_{oi} M_{ij}, \quad M = A_n \cdots A_1

    Args:
        weight: `[O, I, kh, kw]`.
        adapters: Weights `[C_out, C_in, 1, 1]` of the adapters in the order of their calls; the
            first reads what the merged layer reads, the last has I channels.
    """
    product = adapters[0].flatten(1)
    for adapter in adapters[1:]:
        product = adapter.flatten(1) @ product
    return torch.einsum("oi...,ij->oj...", weight, product)
