"""Quantisation in floating point: the numbers of the integer network, and gradients through it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mulfree.quantization.fused_graph import Hooks
from mulfree.quantization.fused_ops import ADDER, AnyLayer, Layer, Norm
from mulfree.quantization.qparams import Grid, Layout

Lattice = tuple[Tensor, Tensor]
"""Scale, float32, and zero, int32, of a grid."""


class FakeQuantise(Hooks):
    """Rounds values and weights to what the integers of their grids stand for.

    Gradients pass as if nothing had been rounded, but not where a value was outside its grid. A
    weight of an adder layer that lies outside keeps its distance from the grid, as the integer
    network does: `|x - w| = |x - clip(w)| + |w - clip(w)|` for every x on the grid.

    Args:
        layout: The grids.
        lattice: Scale and zero of a grid by its name, told of the value's tensor.
        shift_only: Round the factors of normalisations behind adder layers to powers of two. Those
            behind convolutions become so by the scale of the weights.
    """

    def __init__(
        self,
        layout: Layout,
        lattice: Callable[[str, Tensor], Lattice],
        *,
        shift_only: bool = False,
    ) -> None:
        self._layout = layout
        self._lattice = lattice
        self._shift_only = shift_only
        self._used: dict[str, Lattice] = {}

    def value(self, name: str, x: Tensor) -> Tensor:
        """`x` on its grid."""
        return self._rounded(name, x)

    def operand(self, layer: Layer, x: Tensor) -> Tensor:
        """`x` on the grid that the layer reads, if that is another one."""
        name = self._layout.operand(layer)
        return x if name in self._layout.roots else self._rounded(name, x)

    def weight(self, layer: Layer, module: AnyLayer) -> Tensor:
        """The weights as integers stand for them."""
        w: Tensor = module.weight
        bits = self._layout.weight_bits(layer)
        if isinstance(module, ADDER):
            return _shared(w, self._used[self._layout.operand(layer)], bits)
        largest = 2 ** (bits - 1) - 1
        step: Tensor = w.flatten(1).abs().amax(1).clamp(min=1e-12) / largest
        step = step.view(-1, *[1] * (w.ndim - 1))
        rounded: Tensor = (w / step).round() * step
        return w + (rounded - w).detach()

    def normalised(self, module: AnyLayer, norm: Norm, x: Tensor, y: Tensor) -> Tensor:
        """`y` as it is with the factor of the integer network."""
        if not self._shift_only or not isinstance(module, ADDER):
            return y
        assert norm.running_var is not None
        others = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        # Of the running variance in training, too: that of a batch would fall on this side of a
        # power of two now and on the other side then.
        kept = (norm.running_var + norm.eps).rsqrt()
        if norm.affine:
            kept, y = kept * norm.weight.detach().abs(), y - norm.bias.view(shape)
        factor = kept
        if norm.training:
            # Not from the variance of `x`, which may be but one process's part of the images.
            made, read = (t.detach().var(others, correction=0) for t in (y, x))
            factor = (made / read).sqrt()
        power = kept.log2().round().exp2()
        y = y * torch.where(factor > 0, power / factor, 1.0).view(shape)
        return y + norm.bias.view(shape) if norm.affine else y

    def _rounded(self, name: str, x: Tensor) -> Tensor:
        self._used[name] = self._lattice(name, x)
        return _fake(x, *self._used[name], self._layout.grids[name])


def lattice_of(grid: Grid) -> Lattice:
    """Scale and zero of a grid that does not change."""
    return torch.tensor(grid.scale), torch.tensor(grid.zero, dtype=torch.int32)


def _shared(w: Tensor, lattice: Lattice, bits: int) -> Tensor:
    """Weights of an adder layer on the grid of what it reads, or as far from it as they were."""
    scale, zero = lattice
    clipped = w.clamp(-scale * zero, scale * (2**bits - 1 - zero))
    return w + (_fake(w, scale, zero, bits) - clipped).detach()


def _fake(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**bits - 1)
