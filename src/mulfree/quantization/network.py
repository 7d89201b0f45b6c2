"""The network that is quantised: a copy of the one given, and what it must be."""

from __future__ import annotations

import copy
import math
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
from mulfree.quantization.fused_graph import Hooks, Plan, execute
from mulfree.quantization.fused_ops import Layer, Norm
from mulfree.quantization.trace import reason

# Hooks that work out a weight before every forward.
_REPARAMETRISATIONS = (WeightNorm, SpectralNorm, BasePruningMethod)
# Logits of the operations may differ from those of the model by so much of the largest: sums in
# another order do not reach that, what is missing does.
_CLOSE = 1e-2


def copied(model: nn.Module) -> nn.Module:
    """A network in evaluation on the CPU, in single precision or, as it is, in double.

    Raises:
        ConfigError: `model` is no module, cannot be copied, or has parameters without or of other
            than real numbers.
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
    # Results of a graph of gradients, as weights that a hook works out, refuse to be copied.
    made: dict[int, object] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    try:
        network = copy.deepcopy(model, made).eval().requires_grad_(False)
        return network.to("cpu", torch.float64 if double else torch.float32)
    except Exception as error:  # whatever an attribute of the model raises
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
    """A copy without hooks, whose weights are numbers and worked out by no parametrisation.

    Normalisations over the images of several processes are those of one.
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
    """Makes parameters of what the parametrisations of a module work out.

    `remove_parametrizations` would change the class, which copies have in common.
    """
    parametrizations = module._modules["parametrizations"]
    assert isinstance(parametrizations, nn.ModuleDict)
    results = {name: getattr(module, name).detach().clone() for name in parametrizations}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, result in results.items():
        module.register_parameter(name, nn.Parameter(result, requires_grad=False))


def check_weights(plan: Plan, network: nn.Module) -> None:
    """Refuses layers without weights or with such that are not finite.

    Raises:
        ConfigError: There is one, which is named.
    """
    for step in plan.steps:
        if not isinstance(step, Layer):
            continue
        for path in filter(None, (step.module, step.norm)):
            module: Any = network.get_submodule(path)
            for name in ("weight", "bias", "running_mean", "running_var"):
                numbers = getattr(module, name, None)
                if numbers is not None:
                    _check_numbers(f"{path}.{name}", numbers)
            if path == step.norm:
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


def _check_variance(path: str, norm: Norm) -> None:
    assert norm.running_var is not None
    least = float(norm.running_var.min())
    if least < 0 or least + norm.eps <= 0:
        raise ConfigError(
            "quantize: `model` must have variances that are positive with eps, got "
            f"{least} and {norm.eps} at {path}.running_var"
        )


def check_operations(plan: Plan, network: nn.Module, simple: nn.Module, images: Tensor) -> None:
    """Refuses a network that makes other logits than the steps that were recorded of it.

    What a forward does by the values of images, hooks, or changes of a shared view is in no record.

    Args:
        plan: The steps.
        network: The network with all that it has.
        simple: The network that the steps name modules of.
        images: Some images, `[N, C, H, W]`.

    Raises:
        ConfigError: It does, fails, or its logits are not finite.
    """
    with torch.no_grad():
        try:
            expected = network(images.clone())
            found = execute(plan, simple, images, Hooks())
        except Exception as error:  # whatever a forward raises
            raise ConfigError(
                f"quantize: `model` must take images {list(images.shape)}, got "
                f"{type(network).__name__} ({reason(error)})"
            ) from error
    if isinstance(expected, Tensor) and not expected.isfinite().all():
        raise ConfigError(
            "quantize: `model` must compute finite numbers of `batches`, got "
            f"{expected[~expected.isfinite()][0].item()} as a logit"
        )
    difference = math.inf
    # Of one class logits may be [N], too.
    if isinstance(expected, Tensor) and expected.numel() == found.numel():
        difference = float((expected.reshape(found.shape) - found).abs().max())
    if not difference <= _CLOSE * max(float(found.abs().max()), 1e-30):
        raise ConfigError(
            "quantize: `model` must compute what its layers compute, without hooks, views changed "
            "in place or choices by the values of images that change its logits, got logits that "
            f"differ by {difference:.3g}"
        )
