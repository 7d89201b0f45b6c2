"""Fake quantisation: the numbers of the integer network in floating point, with gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mulfree.quantization.fused_graph import Hooks
from mulfree.quantization.fused_ops import BatchNorm, FusedLayer, LayerModule
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.qparams import TensorQuantParams


class FakeQuantize(Hooks):
    """Round values and weights to the numbers that the integers represent.

    Straight-through gradients; zero where a value was outside its range. The integer form of a
    layer's operator rounds its weight.

    Args:
        layout: Bit widths and shared scales.
        qparams: Quantisation parameters by their name and the value's tensor.
        power_of_two_scales: Round the batch-norm factors of layers to powers of two if their weight
            shares the scale of the input. A scale per filter makes the factor a power of two.
    """

    def __init__(
        self,
        layout: QuantLayout,
        qparams: Callable[[str, Tensor], TensorQuantParams],
        *,
        power_of_two_scales: bool = False,
    ) -> None:
        self._layout = layout
        self._qparams = qparams
        self._power_of_two_scales = power_of_two_scales
        self._used: dict[str, TensorQuantParams] = {}

    def value(self, name: str, x: Tensor) -> Tensor:
        """`x` rounded."""
        return self._rounded(name, x)

    def operand(self, layer: FusedLayer, x: Tensor) -> Tensor:
        """`x` rounded again if the layer reads a copy with fewer bits."""
        name = self._layout.operand(layer)
        return x if name in self._layout.roots else self._rounded(name, x)

    def weight(self, layer: FusedLayer, module: LayerModule) -> Tensor:
        """Rounded weights."""
        bits = self._layout.weight_bits(layer)
        return layer.form.fake_weight(module.weight, bits, *self._used[self._layout.operand(layer)])

    def batch_norm(self, layer: FusedLayer, norm: BatchNorm, x: Tensor, y: Tensor) -> Tensor:
        """`y` with the factor of the integer network."""
        if not self._power_of_two_scales or not layer.form.shares_scale:
            return y
        assert norm.running_var is not None
        others = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        # Use the running variance even in training: the batch variance would make the rounded
        # power of two flip between steps.
        kept = (norm.running_var + norm.eps).rsqrt()
        if norm.affine:
            kept, y = kept * norm.weight.detach().abs(), y - norm.bias.view(shape)
        factor = kept
        if norm.training:
            # Measured from output and input: SyncBatchNorm uses the variance over all ranks.
            made, read = (t.detach().var(others, correction=0) for t in (y, x))
            factor = (made / read).sqrt()
        power = kept.log2().round().exp2()
        y = y * torch.where(factor > 0, power / factor, 1.0).view(shape)
        return y + norm.bias.view(shape) if norm.affine else y

    def _rounded(self, name: str, x: Tensor) -> Tensor:
        x = self._layout.clamped(name, x)
        self._used[name] = self._qparams(name, x)
        return _fake(x, *self._used[name], self._layout.bit_widths[name])


def _fake(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 2**bits - 1)
