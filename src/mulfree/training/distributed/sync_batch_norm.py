"""Batch norm over the images of all ranks."""

from __future__ import annotations

import torch
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mulfree.training.distributed.collective import total


class SyncBatchNorms(LayerSync):
    """Replacement of batch norms by synchronised ones.

    Args:
        plain: Use plain operations, which also run on CPUs and are compiled with the rest of a
            step, instead of the accelerator kernels of `torch.nn.SyncBatchNorm`.
    """

    def __init__(self, plain: bool) -> None:
        self.plain = plain

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace every batch norm in `model`; parameters keep their names."""
        if not self.plain:
            converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            return converted
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.__class__ = _SyncBatchNorm
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Do nothing: a run returns the network of its checkpoint, built anew."""
        return model


class _SyncBatchNorm(_BatchNorm):
    """`torch.nn.SyncBatchNorm` for any device, differentiated by autograd."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions: the original class has checked it."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            tested: Tensor = super().forward(input)
            return tested
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        others = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.new_tensor(x.numel() / x.shape[1])
        distributed.all_reduce(count)
        mean = total(x.sum(others)) / count
        centred = x - mean.view(shape)
        variance = total(centred.square().sum(others)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        factor = 1 / float(self.num_batches_tracked) if momentum is None else momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)
