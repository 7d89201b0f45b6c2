"""Copies and checks of the network to be quantised."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from mulfree.errors import ConfigError, quoted
from mulfree.models.wrappers import unwrapped
from mulfree.quantization.fused_graph import FusedGraph, Hooks, execute
from mulfree.quantization.fused_ops import BatchNorm, FusedLayer
from mulfree.quantization.trace import reason

# Hooks that compute a weight before every forward.
_REPARAMETRISATIONS = (WeightNorm, SpectralNorm, BasePruningMethod)
# Tolerance between logits of the traced operations and of the model, relative to the largest: above
# the error of another summation order, below the effect of a missing operation.
_CLOSE = 1e-2


def copied(model: nn.Module) -> nn.Module:
    """Copy of a network in evaluation mode on the CPU, in float32, or float64 if it has any.

    Raises:
        ConfigError: `model` is not a module, cannot be copied, or has parameters that hold no real
            numbers.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"quantize: `model` must be a torch.nn.Module, got {quoted(type(model).__name__)}"
        )
    model = unwrapped(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ConfigError(
            "quantize: `model` must be the network itself, got a compiled ScriptModule"
        )
    double = False
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        _check_tensor(name, tensor)
        double |= tensor.dtype == torch.float64
    # Tensors with a `grad_fn`, as weights computed by a hook, cannot be deep-copied.
    made: dict[int, object] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    try:
        network = copy.deepcopy(model, made).eval().requires_grad_(False)
        return network.to("cpu", torch.float64 if double else torch.float32)
    except Exception as error:  # any: from an attribute of the model
        raise ConfigError(
            f"quantize: `model` must be a network that can be copied, got {type(model).__name__} "
            f"({reason(error)})"
        ) from error


def _check_tensor(name: str, tensor: Tensor) -> None:
    got = None
    if nn.parameter.is_lazy(tensor):
        got = "one without a shape (run the network once)"
    elif tensor.is_meta:
        got = "one on the meta device"
    elif tensor.is_quantized or tensor.is_complex() or tensor.layout != torch.strided:
        got = f"{tensor.dtype}, {tensor.layout}"
    if got is not None:
        raise ConfigError(
            f"quantize: `model` must have parameters of real numbers, got {got} at {name}"
        )


def plain(network: nn.Module) -> nn.Module:
    """Copy without hooks and parametrisations, whose weights are plain parameters.

    SyncBatchNorm becomes BatchNorm2d.
    """
    network = copy.deepcopy(network)
    for module in network.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _REPARAMETRISATIONS):
                hook(module, None)
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()
        if parametrize.is_parametrized(module):
            _settle(module)
        kind: type[nn.Module] = type(module)
        if kind is nn.SyncBatchNorm:
            module.__class__ = nn.BatchNorm2d
    return network.requires_grad_(False)


def _settle(module: nn.Module) -> None:
    """Replace the parametrisations of a module by parameters with their results.

    Not by `remove_parametrizations`: it changes the class, which copies share.
    """
    parametrizations = module._modules["parametrizations"]
    assert isinstance(parametrizations, nn.ModuleDict)
    results = {name: getattr(module, name).detach().clone() for name in parametrizations}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, result in results.items():
        module.register_parameter(name, nn.Parameter(result, requires_grad=False))


def check_weights(fused: FusedGraph, network: nn.Module) -> None:
    """Refuse layers without weights or with weights that are not finite.

    Raises:
        ConfigError: There is one; the message names it.
    """
    for op in fused.ops:
        if not isinstance(op, FusedLayer):
            continue
        for path in filter(None, (op.module, op.batch_norm)):
            module: Any = network.get_submodule(path)
            for name in ("weight", "bias", "running_mean", "running_var"):
                numbers = getattr(module, name, None)
                if numbers is not None:
                    _check_numbers(f"{path}.{name}", numbers)
            if path == op.batch_norm:
                _check_variance(path, module)


def _check_numbers(path: str, numbers: Tensor) -> None:
    if numbers.numel() == 0:
        raise ConfigError(
            f"quantize: `model` must have layers with weights, got {list(numbers.shape)} at {path}"
        )
    finite = numbers.isfinite()
    if not finite.all():
        got = numbers[~finite][0].item()
        raise ConfigError(f"quantize: `model` must have finite weights, got {got} at {path}")


def _check_variance(path: str, norm: BatchNorm) -> None:
    assert norm.running_var is not None
    least = float(norm.running_var.min())
    if least < 0 or least + norm.eps <= 0:
        raise ConfigError(
            "quantize: `model` must have variances that are positive with eps, got "
            f"{least} and {norm.eps} at {path}.running_var"
        )


def check_operations(
    fused: FusedGraph, network: nn.Module, simple: nn.Module, images: Tensor
) -> None:
    """Refuse a network whose logits differ from the logits of its traced operations.

    A trace has no hooks, no branches on the values of images and no changes of a shared view.

    Args:
        fused: The traced operations.
        network: The network with its hooks.
        simple: The network with the modules of `fused`.
        images: Some images, `[N, C, H, W]`.

    Raises:
        ConfigError: The logits differ or are not finite, or the network raises.
    """
    difference = _difference(fused, network, simple, images)
    if not difference <= _CLOSE and images.dtype == torch.float32:
        # In deep adder networks with random weights the rounding of float32 grows as large.
        one, other = (copy.deepcopy(module).double() for module in (network, simple))
        with contextlib.suppress(ConfigError):
            difference = _difference(fused, one, other, images.double())
    if not difference <= _CLOSE:
        raise ConfigError(
            "quantize: `model` must compute its logits by its layers alone, without hooks, views "
            "changed in place or branches on the values of images, got logits that differ by "
            f"{difference:.3g} of the largest"
        )


def _side_by_side(outputs: object) -> object:
    """Outputs of a network by name as one tensor; anything else as it is."""
    if isinstance(outputs, Mapping) and all(isinstance(y, Tensor) for y in outputs.values()):
        return torch.cat([y.flatten(1) for y in outputs.values()], dim=1)
    return outputs


def _difference(fused: FusedGraph, network: nn.Module, simple: nn.Module, images: Tensor) -> float:
    """Largest difference of the logits, relative to the largest logit."""
    with torch.no_grad():
        try:
            expected = _side_by_side(network(images.clone()))
            found = execute(fused, simple, images, Hooks())
        except Exception as error:  # any: from the forward
            raise ConfigError(
                f"quantize: `model` must take images {list(images.shape)}, got "
                f"{type(network).__name__} ({reason(error)})"
            ) from error
    if isinstance(expected, Tensor) and not expected.isfinite().all():
        raise ConfigError(
            "quantize: `model` must compute finite numbers of `batches`, got "
            f"{expected[~expected.isfinite()][0].item()} as a logit"
        )
    # With one class the logits may have shape [N].
    if not isinstance(expected, Tensor) or expected.numel() != found.numel():
        return math.inf
    difference = float((expected.reshape(found.shape) - found).abs().max())
    return difference / max(float(found.abs().max()), 1e-30)
