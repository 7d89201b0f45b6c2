"""Bias correction: batch-norm statistics adapted to the rounding of their input."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mulfree.quantization.fake_quantize import FakeQuantize
from mulfree.quantization.fused_graph import Hooks, execute
from mulfree.quantization.fused_ops import BATCH_NORMS
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.observers import Range
from mulfree.quantization.qparams import QuantParams

# Largest growth of the squared logit error that a correction may cause.
_MAX_ERROR_GROWTH = 10.0


@torch.no_grad()
def correct_batch_norms(
    layout: QuantLayout,
    model: nn.Module,
    images: Sequence[Tensor],
    qparams: Mapping[str, QuantParams],
    *,
    power_of_two_scales: bool = False,
    unless_harmful: bool = False,
) -> nn.Module:
    """Copy of a network whose batch norms are corrected for the rounding of their input.

    Rounding shifts the distances that an adder layer sums, all in one direction, and with them the
    mean and variance of the sums. Both are measured on the same images with and without rounding.
    The running mean is increased by the difference of the means, the running variance multiplied
    by the ratio of the variances. The measured statistics do not replace the running statistics,
    as training estimates those from more and augmented images.

    The correction is measured under the statistics of `images`. Early in training, where the
    running statistics differ, it can multiply the squared error of the rounded logits by a thousand
    and more; in trained networks by 0.5 to 2.

    Args:
        layout: Bit widths and shared scales.
        model: The network in evaluation mode, not changed.
        images: Batches `[N, C, H, W]`.
        qparams: All quantisation parameters of the layout.
        power_of_two_scales: Round every factor to a power of two.
        unless_harmful: Return `model` itself if the correction multiplies the squared error of the
            rounded logits by more than 10.
    """
    tensors = {name: params.tensors() for name, params in qparams.items()}

    def rounding() -> Hooks:
        return FakeQuantize(
            layout, lambda name, _: tensors[name], power_of_two_scales=power_of_two_scales
        )

    before = _statistics(layout, model, images, Hooks())
    after = _statistics(layout, model, images, rounding())
    corrected = copy.deepcopy(model)
    for path, (mean, variance) in before.items():
        norm = corrected.get_submodule(path)
        assert isinstance(norm, BATCH_NORMS)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        new_mean, new_variance = after[path]
        norm.running_mean += new_mean - mean
        # A constant filter has no variance to correct.
        norm.running_var *= torch.where(variance > 0, new_variance / variance, 1.0)
    if not unless_harmful:
        return corrected
    exact = [execute(layout.fused, model, batch, Hooks()) for batch in images]

    def error(network: nn.Module) -> float:
        hooks = rounding()
        return sum(
            float((execute(layout.fused, network, batch, hooks) - logits).square().sum())
            for batch, logits in zip(images, exact, strict=True)
        )

    return corrected if error(corrected) <= _MAX_ERROR_GROWTH * error(model) else model


def _statistics(
    layout: QuantLayout, model: nn.Module, images: Sequence[Tensor], hooks: Hooks
) -> dict[str, Range]:
    """Mean and variance over all images of the input of every batch norm, by its path."""
    measured = copy.deepcopy(model)
    norms = {path: m for path, m in measured.named_modules() if isinstance(m, BATCH_NORMS)}
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for batch in images:
        execute(layout.fused, measured, batch, hooks)
    found = {}
    for path, norm in norms.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        found[path] = norm.running_mean, norm.running_var
    return found
